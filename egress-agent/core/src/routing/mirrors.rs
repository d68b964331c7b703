//! Whether a mirror may get a copy: its permission is that of a route's destination, and ends with it.
//!
//! It sends nothing.

use super::{Cluster, DenialReason, Mirror, RouteTable};
use crate::traffic::{ClusterId, HttpAction};
use egress_ebpf::ids::PolicyId;
use std::net::SocketAddr;
use std::sync::Arc;

impl Mirror {
    /// Why it gets no copy.
    pub fn denial(&self) -> Option<DenialReason> {
        let Cluster { id, policy, .. } = &*self.cluster;
        if let Some(why) = &policy.denied {
            return Some(DenialReason::NotCarriedOut(Arc::clone(why)).of_mirror());
        }
        if self.cluster.missing {
            return Some(DenialReason::NoCluster(id.host.to_string()).of_mirror());
        }
        // Resolution NONE has no address of its own, and the client dialled another service. Envoy finds none either:
        // a shadow stream has no downstream connection.
        let has_address = self.cluster.original_dst.is_none() && !self.cluster.endpoints.is_empty();
        (!has_address).then(|| DenialReason::NoEndpoint(id.host.to_string()).of_mirror())
    }
}

impl RouteTable {
    /// Whether some route of a host still copies requests to a cluster that rules list.
    pub fn lists_mirror(
        &self,
        policy: PolicyId,
        dialled: SocketAddr,
        authority: &str,
        to: &ClusterId,
    ) -> bool {
        let Some(routes) = self.port(policy, dialled.port()) else {
            return false;
        };
        let listed = |mirror: &Mirror| {
            mirror.cluster.id == *to
                && !mirror.cluster.missing
                && mirror.cluster.policy.denied.is_none()
        };
        let found = routes.find_host(dialled, authority, |host| {
            let actions = host.routes.iter().filter_map(|r| r.action.as_ref().ok());
            let splits = actions.filter_map(HttpAction::destinations);
            let mut mirrors = splits.filter_map(|to| to.mirrors()).flat_map(|m| m.iter());
            mirrors.any(listed).then_some(())
        });
        found.is_some()
    }
}
