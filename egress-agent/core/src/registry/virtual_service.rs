//! A `VirtualService` as the registry holds it: the object, and for whom it is.

use crate::istio::{Object, Spec, virtual_service};
use std::sync::{Arc, OnceLock};

/// The gateway name that means every workload.
const MESH: &str = "mesh";

/// A `VirtualService`.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// The object; its spec is a `VirtualService`.
    pub object: Arc<Object>,
}

impl VirtualService {
    /// The resource itself.
    pub fn spec(&self) -> &virtual_service::VirtualService {
        static NONE: OnceLock<virtual_service::VirtualService> = OnceLock::new();
        match &self.object.spec {
            Some(Spec::VirtualService(spec)) => spec,
            _ => NONE.get_or_init(virtual_service::VirtualService::default),
        }
    }

    /// Whether it is for workloads and not only for gateways; a match's own list comes first.
    pub fn for_mesh(&self, of_match: &[String]) -> bool {
        let own = &self.spec().gateways;
        let gateways = if of_match.is_empty() { own } else { of_match };
        gateways.is_empty() || gateways.iter().any(|g| g == MESH)
    }

    pub(super) fn serves_mesh(&self) -> bool {
        let spec = self.spec();
        let http = spec.http.iter().flat_map(|r| &r.r#match);
        let tls = spec.tls.iter().flat_map(|r| &r.r#match);
        let tcp = spec.tcp.iter().flat_map(|r| &r.r#match);
        let lists = http
            .map(|m| &m.gateways)
            .chain(tls.map(|m| &m.gateways))
            .chain(tcp.map(|m| &m.gateways));
        self.for_mesh(&[]) || lists.into_iter().any(|g| !g.is_empty() && self.for_mesh(g))
    }
}
