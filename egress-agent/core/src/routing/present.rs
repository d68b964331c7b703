//! The present state of a destination, for a flow that was allowed some time ago.
//!
//! It allows nothing by itself: `decide` does.

use super::inside::within;
use super::{
    Cluster, Fit, HttpMatch, HttpRoute, PolicyRoutes, RequestHead, RouteTable, TlsRoute,
    VirtualHost,
};
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

    /// Whether a running request for a host may go on to its destination: the host's routes still lead there, or rules
    /// still list the service itself. So a route that leads elsewhere by now cuts nothing off.
    pub fn keeps_request(
        &self,
        policy: PolicyId,
        dialled: SocketAddr,
        authority: &str,
        to: &Arc<Cluster>,
    ) -> bool {
        let port = self.port(policy, dialled.port());
        let by_host = port.and_then(|port| {
            port.find_host(dialled, authority, |host| {
                serves_still(host.clusters(None), dialled.ip(), to)
            })
        });
        by_host.unwrap_or_else(|| self.keeps_bytes(policy, dialled, to))
    }

    /// The same for a TLS connection with this server name.
    pub fn keeps_server(
        &self,
        policy: PolicyId,
        dialled: SocketAddr,
        sni: Option<&str>,
        to: &Arc<Cluster>,
    ) -> bool {
        let leads = |route: &Arc<TlsRoute>| {
            let fits = within(&route.nets, dialled.ip());
            fits.then(|| serves_still(route.to.clusters(), dialled.ip(), to))?
        };
        let port = self.port(policy, dialled.port());
        let by_name = port.and_then(|port| match sni {
            Some(name) => port.tls.find(name, leads),
            None => port.nameless(dialled.ip()).find_map(leads),
        });
        by_name.unwrap_or_else(|| self.keeps_bytes(policy, dialled, to))
    }

    /// The same for bytes without a name.
    pub fn keeps_bytes(&self, policy: PolicyId, dialled: SocketAddr, to: &Arc<Cluster>) -> bool {
        let Some(routes) = self.policies.get(&policy) else {
            return false;
        };
        if *to.id.host == *ClusterId::PASSTHROUGH {
            return routes.passes(dialled).is_some();
        }
        let by_address = || {
            let port = routes.ports.get(&dialled.port())?;
            port.tcp.find(dialled.ip(), |route| {
                serves_still(route.to.clusters(), dialled.ip(), to)
            })
        };
        let unlisted = || serves_still(routes.unlisted.iter(), dialled.ip(), to);
        let led = by_address().or_else(unlisted);
        led.unwrap_or_else(|| routes.lists_service(to))
    }
}

impl PolicyRoutes {
    /// Whether the service of a cluster is listed on its own port, wherever its routes lead.
    fn lists_service(&self, cluster: &Cluster) -> bool {
        let Some(port) = self.ports.get(&cluster.id.port) else {
            return false;
        };
        let host = &*cluster.id.host;
        let denied = |c: &Arc<Cluster>| *c.id.host == *host && c.policy.denied.is_some();
        let as_host = || {
            let listed = |entry: &Arc<VirtualHost>| Some(!entry.clusters(None).any(denied));
            port.hosts.find(host, listed)
        };
        let as_server = || {
            let listed = |route: &Arc<TlsRoute>| Some(!route.to.clusters().any(denied));
            port.tls.find(host, listed)
        };
        let as_bytes = || {
            let leads = |c: &Arc<Cluster>| *c.id.host == *host && !c.missing && !denied(c);
            port.tcp
                .routes()
                .any(|route| route.to.clusters().any(leads))
        };
        as_host().or_else(as_server).unwrap_or_else(as_bytes)
    }
}

/// Whether one of these clusters is a destination that flows may still reach. `None` if it is not among them.
fn serves_still<'a>(
    all: impl Iterator<Item = &'a Arc<Cluster>>,
    dialled: IpAddr,
    to: &Arc<Cluster>,
) -> Option<bool> {
    let mut found = None;
    for cluster in all.filter(|c| c.id == to.id) {
        if serves(cluster, dialled) {
            return Some(true);
        }
        found = Some(false);
    }
    found
}

fn serves(cluster: &Cluster, dialled: IpAddr) -> bool {
    !cluster.missing && cluster.policy.denied.is_none() && cluster.takes(dialled)
}

/// Among these clusters the one with this id: if there are several, the one that did not change.
fn same<'a>(
    all: impl Iterator<Item = &'a Arc<Cluster>>,
    dialled: IpAddr,
    before: &Arc<Cluster>,
) -> Option<Arc<Cluster>> {
    let mut changed = None;
    for cluster in all.filter(|c| c.id == before.id && serves(c, dialled)) {
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
