//! Flows that no name and no route for bytes lists: they reach what was dialled, or the egress proxy, or are denied.

use super::inside::within;
use super::{Cluster, PolicyRoutes, RouteTable, TcpDecision};
use crate::traffic::{ClusterId, UpstreamProtocol};
use egress_ebpf::ids::PolicyId;
use std::net::SocketAddr;
use std::sync::Arc;

impl RouteTable {
    /// Decides such a flow.
    pub(super) fn unlisted(&self, policy: PolicyId, dialled: SocketAddr) -> TcpDecision {
        let routes = self.policies.get(&policy);
        let decided = routes.and_then(|routes| {
            let passes = routes.passes(dialled).map(TcpDecision::Relay);
            passes.or_else(|| routes.to_egress_proxy(dialled))
        });
        decided.unwrap_or(TcpDecision::Unlisted)
    }

    /// Whether a policy denies nothing.
    pub fn audits(&self, policy: PolicyId) -> bool {
        self.policies.get(&policy).is_some_and(|p| p.audit)
    }

    /// The destination of a denied flow if its policy audits: the dialled address.
    pub fn audited(&self, policy: PolicyId, dialled: SocketAddr) -> Option<Arc<Cluster>> {
        self.audits(policy).then(|| Arc::new(passthrough(dialled)))
    }
}

impl PolicyRoutes {
    /// The destination of a flow that may be reached on any port, whatever is spoken.
    pub(super) fn passes(&self, dialled: SocketAddr) -> Option<Arc<Cluster>> {
        let passes = !self.passthrough.is_empty() && within(&self.passthrough, dialled.ip());
        passes.then(|| Arc::new(passthrough(dialled)))
    }

    fn to_egress_proxy(&self, dialled: SocketAddr) -> Option<TcpDecision> {
        let cluster = self.unlisted.as_ref()?;
        if let Some(why) = &cluster.policy.denied {
            return Some(TcpDecision::NotCarriedOut(Arc::clone(why)));
        }
        let leads = !cluster.missing && cluster.takes(dialled.ip());
        leads.then(|| TcpDecision::Relay(Arc::clone(cluster)))
    }
}

/// A cluster that dials the client's destination.
fn passthrough(dialled: SocketAddr) -> Cluster {
    Cluster {
        id: ClusterId::new(ClusterId::PASSTHROUGH, dialled.port()),
        original_dst: Some(dialled.port()),
        protocol: UpstreamProtocol::AsClient,
        ..Cluster::default()
    }
}
