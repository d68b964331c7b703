//! The present state of a destination, for a flow that was allowed some time ago.
//!
//! It allows nothing by itself: `decide` does.

use super::{Cluster, Fit, HttpMatch, HttpRoute, RequestHead, RouteTable, VirtualHost};
use crate::traffic::{ClusterId, HttpAction};
use egress_ebpf::ids::PolicyId;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

impl RouteTable {
    /// The present state of a destination to which a route of a host leads, or to which it copies requests. `head`: only
    /// the route of this request counts. `None`: no rule leads there any longer.
    pub fn present(
        &self,
        policy: PolicyId,
        dialled: SocketAddr,
        authority: &str,
        head: Option<&RequestHead<'_>>,
        before: &Arc<Cluster>,
    ) -> Option<Arc<Cluster>> {
        let by_host = || {
            let routes = self.port(policy, dialled.port())?;
            routes.find_host(dialled, authority, |host| {
                let found = same(host.clusters(head), dialled.ip(), before);
                // A host that is not listed at this address leaves the request to a wildcard.
                let takes = || host.clusters(None).any(|c| c.takes(dialled.ip()));
                (found.is_some() || takes()).then_some(found)
            })
        };
        by_host().unwrap_or_else(|| self.relays(policy, dialled, before))
    }

    fn relays(
        &self,
        policy: PolicyId,
        dialled: SocketAddr,
        before: &Arc<Cluster>,
    ) -> Option<Arc<Cluster>> {
        let routes = self.policies.get(&policy)?;
        if *before.id.host == *ClusterId::PASSTHROUGH {
            return routes.passes(dialled);
        }
        let port = routes.ports.get(&dialled.port());
        let listed = port.and_then(|port| {
            port.tcp.find(dialled.ip(), |route| {
                same(route.to.clusters(), dialled.ip(), before)
            })
        });
        listed.or_else(|| same(routes.unlisted.iter(), dialled.ip(), before))
    }
}

/// Among these clusters the one with this id: if there are several, the one that did not change.
fn same<'a>(
    all: impl Iterator<Item = &'a Arc<Cluster>>,
    dialled: IpAddr,
    before: &Arc<Cluster>,
) -> Option<Arc<Cluster>> {
    let serves = |c: &Cluster| !c.missing && c.policy.denied.is_none() && c.takes(dialled);
    let mut changed = None;
    for cluster in all.filter(|c| c.id == before.id && serves(c)) {
        if Arc::ptr_eq(cluster, before) || cluster == before {
            return Some(Arc::clone(cluster));
        }
        changed.get_or_insert(cluster);
    }
    changed.cloned()
}

impl VirtualHost {
    /// The destinations of its routes, or of the route that takes this request.
    fn clusters<'a>(
        &'a self,
        head: Option<&RequestHead<'_>>,
    ) -> impl Iterator<Item = &'a Arc<Cluster>> {
        let routes = match head {
            None => self.routes.as_slice(),
            Some(head) => {
                let matches =
                    |route: &Arc<HttpRoute>| HttpMatch::best(&route.matches, head).0 != Fit::No;
                let at = self.routes.iter().position(matches);
                at.map_or(&[][..], |at| &self.routes[at..=at])
            }
        };
        let actions = routes.iter().filter_map(|route| route.action.as_ref().ok());
        actions.filter_map(HttpAction::destinations).flat_map(|to| {
            let copies = to.mirrors().into_iter().flat_map(|m| m.iter());
            to.clusters().chain(copies.map(|mirror| &mirror.cluster))
        })
    }
}

impl Cluster {
    /// Whether a flow may dial this address for it. With resolution NONE the client chooses, with `DYNAMIC_DNS`
    /// the DNS does.
    pub fn has(&self, address: SocketAddr) -> bool {
        self.original_dst.is_some()
            || self.dynamic.is_some()
            || self.endpoints.contains(&address)
            || self.further.contains(&address)
    }

    /// Whether a connection to `kept` may carry a flow that is to dial `address`. The further addresses of a logical host
    /// are the same endpoint.
    pub fn is_same(&self, address: SocketAddr, kept: SocketAddr) -> bool {
        kept == address || !self.further.is_empty() && self.has(kept)
    }

    /// Whether an idle connection to `kept` may stay when a flow is to dial `address`: not if it leads to a former
    /// endpoint.
    pub fn keeps(&self, address: SocketAddr, kept: SocketAddr) -> bool {
        kept == address || self.has(kept)
    }
}
