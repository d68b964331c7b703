//! A `VirtualService` as the registry holds it: the object and the workloads that it applies to.

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
        for_mesh(self.spec(), of_match)
    }

    pub(super) fn serves_mesh(&self) -> bool {
        serves_mesh(self.spec())
    }
}

/// As [`VirtualService::for_mesh`].
pub(super) fn for_mesh(spec: &virtual_service::VirtualService, of_match: &[String]) -> bool {
    let gateways = if of_match.is_empty() {
        &spec.gateways
    } else {
        of_match
    };
    gateways.is_empty() || gateways.iter().any(|g| g == MESH)
}

/// Whether any part of it is for workloads.
pub(super) fn serves_mesh(spec: &virtual_service::VirtualService) -> bool {
    let http = spec.http.iter().flat_map(|r| &r.r#match);
    let tls = spec.tls.iter().flat_map(|r| &r.r#match);
    let tcp = spec.tcp.iter().flat_map(|r| &r.r#match);
    let lists = http
        .map(|m| &m.gateways)
        .chain(tls.map(|m| &m.gateways))
        .chain(tcp.map(|m| &m.gateways));
    let of_a_match = |list: &Vec<String>| !list.is_empty() && for_mesh(spec, list);
    for_mesh(spec, &[]) || lists.into_iter().any(of_a_match)
}
