//! The Sidecar of a workload and the scope that it gives.
//!
//! Source of the choice: istio `pilot/pkg/model/push_context.go` `getSidecarScope`.

use super::Registry;
use super::not_done::table::{LISTENER, serves_nothing};
use super::scope::{Import, Outbound, Scope, Workload};
use crate::istio::sidecar::{
    IstioEgressListener, OutboundTrafficPolicy, OutboundTrafficPolicyMode, Sidecar,
};
use crate::istio::{Spec, hosts};
use crate::traffic::ClusterId;

impl Registry {
    /// The scope of a workload under the rules as they are.
    pub fn scope_of(&self, workload: &Workload) -> Scope {
        let namespace = &workload.namespace;
        let matters = self.dependences.on_namespace(namespace);
        let labels = workload.labels.iter();
        let labels = labels.filter(|(k, _)| self.dependences.on_label(k));
        let sidecar = self.sidecar_of(workload);
        Scope {
            namespace: if matters {
                namespace.clone()
            } else {
                String::new()
            },
            labels: labels.map(|(k, v)| (k.clone(), v.clone())).collect(),
            imports: sidecar.and_then(|s| imports(s, namespace)),
            outbound: sidecar.and_then(|s| s.outbound_traffic_policy.as_ref().map(outbound)),
            all: false,
        }
    }

    /// The Sidecar of a workload: one of its namespace that selects it, else one of its namespace for all workloads,
    /// else one of the root namespace for all. Of several the oldest counts.
    fn sidecar_of(&self, workload: &Workload) -> Option<&Sidecar> {
        let selector = |s: &Sidecar| {
            let labels = s.workload_selector.as_ref().map(|w| &w.labels);
            labels.filter(|l| !l.is_empty()).cloned()
        };
        let selects = |s: &Sidecar| {
            selector(s).is_some_and(|l| l.iter().all(|(k, v)| workload.labels.get(k) == Some(v)))
        };
        let own = self.sidecars_in(&workload.namespace);
        let root = self.sidecars_in(&self.root_namespace);
        let for_all = |s: &&&Sidecar| selector(s).is_none();
        let chosen = own
            .iter()
            .find(|s| selects(s))
            .or_else(|| own.iter().find(for_all));
        chosen.or_else(|| root.iter().find(for_all)).copied()
    }

    fn sidecars_in(&self, namespace: &str) -> Vec<&Sidecar> {
        let here = self.sidecars.get(namespace).into_iter().flatten();
        here.filter_map(|o| match &o.spec {
            Some(Spec::Sidecar(sidecar)) => Some(sidecar),
            _ => None,
        })
        .collect()
    }
}

fn outbound(policy: &OutboundTrafficPolicy) -> Outbound {
    match (policy.mode, &policy.egress_proxy) {
        (OutboundTrafficPolicyMode::RegistryOnly, _) => Outbound::RegistryOnly,
        (OutboundTrafficPolicyMode::AllowAny, None) => Outbound::AllowAny,
        (OutboundTrafficPolicyMode::AllowAny, Some(to)) => {
            // Validation wants a port. A number that is not one leads nowhere, since no service lists port 0.
            let port = to.port.as_ref().and_then(|p| u16::try_from(p.number).ok());
            Outbound::EgressProxy(ClusterId {
                host: hosts::canonical(&to.host),
                port: port.unwrap_or(0),
                subset: to.subset.as_str().into(),
            })
        }
    }
}

/// The imports of a Sidecar; `None` means everything.
fn imports(sidecar: &Sidecar, own: &str) -> Option<Vec<Import>> {
    if sidecar.egress.is_empty() {
        return None;
    }
    let mut all = Vec::new();
    let carried_out = |l: &&IstioEgressListener| serves_nothing(LISTENER, *l).is_none();
    for listener in sidecar.egress.iter().filter(carried_out) {
        let port = listener.port.as_ref().map(|p| p.number).filter(|n| *n != 0);
        let port = port.map(|n| u16::try_from(n).unwrap_or(0));
        let imports = listener.hosts.iter().filter_map(|h| Import::new(h, own));
        all.extend(imports.map(|import| Import { port, ..import }));
    }
    all.sort();
    all.dedup();
    Some(all)
}
