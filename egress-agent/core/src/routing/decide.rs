//! The decisions: from a Host, an SNI or plain bytes to a destination or a denial.

use super::head::RequestHead;
use super::inside::{canonical, within};
use super::matching::{Fit, HttpMatch};
use super::{
    Cluster, DenialReason, Mirror, PortRoutes, RouteTable, Share, Split, TlsRoute, Turn,
    VirtualHost,
};
use crate::http::authority::parse_authority;
use crate::traffic::{HeaderChanges, HttpAction, NoAction, PathSpec, RoutePolicy};
use egress_ebpf::ids::PolicyId;
use std::cell::OnceCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Where one request goes.
#[derive(Clone, Debug, Default)]
pub struct Target {
    /// The destination.
    pub cluster: Arc<Cluster>,
    /// What the route changes for this destination alone.
    pub headers: Option<Arc<HeaderChanges>>,
    /// Who gets copies of its requests.
    pub mirrors: Option<Arc<[Mirror]>>,
}

/// What a route does with one request.
#[derive(Clone, Debug)]
pub struct Act {
    /// The route's action.
    pub action: HttpAction<Target>,
    /// Its other settings.
    pub policy: Arc<RoutePolicy>,
    /// The path of the match that the request met.
    pub spec: PathSpec,
}

/// Forwards to a cluster that no route leads to.
impl From<Arc<Cluster>> for Act {
    fn from(cluster: Arc<Cluster>) -> Self {
        Self {
            action: HttpAction::Forward(Target {
                cluster,
                headers: None,
                mirrors: None,
            }),
            policy: RoutePolicy::allow_any(),
            spec: PathSpec::default(),
        }
    }
}

/// What happens to one HTTP request.
#[derive(Clone, Debug)]
pub enum HttpDecision {
    /// A route takes it.
    Act(Act),
    /// The Host is not listed on this port: 502 with an empty body (Istio's `block_all`).
    UnlistedHost,
    /// Listed, but no route matches: 404 with an empty body, flag NR.
    NoRoute,
    /// The route leads to a destination that is not registered: 503 with an empty body, flag NC. What it says of faults,
    /// of origins and of the response's headers holds.
    NoCluster(Act),
    /// The route, or its destination, has a field that is not carried out and would narrow or
    /// protect: 503 with an empty body, flag NC. The text names the field and the object.
    NotCarriedOut(Arc<str>),
}

/// What happens to one TLS connection.
#[derive(Clone, Debug)]
pub enum TlsDecision {
    /// Forwarded untouched.
    Forward(Arc<Cluster>),
    /// The name is not listed on this port: closed.
    UnlistedName,
    /// Its destination has a field that is not carried out and would protect: closed.
    NotCarriedOut(Arc<str>),
    /// A route takes the name and leads to a destination that no rule lists: closed.
    NoCluster(Arc<Cluster>),
}

/// What happens to bytes without a name.
#[derive(Clone, Debug, PartialEq)]
pub enum TcpDecision {
    /// Relayed, whatever is spoken.
    Relay(Arc<Cluster>),
    /// Relayed unless it is HTTP, which is decided by its Host.
    RelayNonHttp(Arc<Cluster>),
    /// The destination is not listed for TCP: closed.
    Unlisted,
    /// It is listed with a field that is not carried out and would protect: closed.
    NotCarriedOut(Arc<str>),
}

impl RouteTable {
    /// The routes of a policy on a dialled port; `None` means that no name is listed there.
    pub fn port(&self, policy: PolicyId, port: u16) -> Option<&PortRoutes> {
        Some(self.policies.get(&policy)?.ports.get(&port)?)
    }

    /// Decides one HTTP request by its Host. `dialled` is the original destination; `turn` selects among destinations
    /// by weight.
    pub fn http(
        &self,
        policy: PolicyId,
        dialled: SocketAddr,
        head: &RequestHead<'_>,
        turn: impl Into<Turn>,
    ) -> HttpDecision {
        let turn = turn.into();
        let names = self.port(policy, dialled.port());
        let listed = names.map_or(HttpDecision::UnlistedHost, |n| {
            n.by_host(dialled, head, turn)
        });
        if !matches!(listed, HttpDecision::UnlistedHost) {
            return listed;
        }
        let unnamed = match self.tcp(policy, dialled, turn) {
            TcpDecision::RelayNonHttp(_) => self.unlisted(policy, dialled),
            decided => decided,
        };
        match unnamed {
            TcpDecision::Relay(cluster) => HttpDecision::Act(cluster.into()),
            TcpDecision::NotCarriedOut(why) => HttpDecision::NotCarriedOut(why),
            TcpDecision::RelayNonHttp(_) | TcpDecision::Unlisted => listed,
        }
    }

    /// Decides one TLS connection by its server name in canonical form.
    pub fn tls(
        &self,
        policy: PolicyId,
        dialled: SocketAddr,
        sni: Option<&str>,
        turn: impl Into<Turn>,
    ) -> TlsDecision {
        let turn = turn.into();
        let missing = OnceCell::new();
        let by_name = || {
            let routes = self.port(policy, dialled.port())?;
            let fits = |route: &Arc<TlsRoute>| {
                let cluster = &route.to.pick(turn)?.cluster;
                if !within(&route.nets, dialled.ip()) {
                    return None;
                }
                // This route takes the name and denies it, so no wildcard may allow it.
                if let Some(why) = &cluster.policy.denied {
                    return Some(TlsDecision::NotCarriedOut(Arc::clone(why)));
                }
                if cluster.missing {
                    missing.get_or_init(|| Arc::clone(cluster));
                    return None;
                }
                let takes = cluster.takes(dialled.ip());
                takes.then(|| TlsDecision::Forward(Arc::clone(cluster)))
            };
            match sni {
                Some(name) => routes.tls.find(name, fits),
                None => routes.nameless(dialled.ip()).find_map(fits),
            }
        };
        let by_address = || match self.tcp(policy, dialled, turn) {
            TcpDecision::Relay(cluster) | TcpDecision::RelayNonHttp(cluster) => {
                TlsDecision::Forward(cluster)
            }
            TcpDecision::Unlisted => TlsDecision::UnlistedName,
            TcpDecision::NotCarriedOut(why) => TlsDecision::NotCarriedOut(why),
        };
        match (by_name().unwrap_or_else(by_address), missing.into_inner()) {
            (TlsDecision::UnlistedName, Some(cluster)) => TlsDecision::NoCluster(cluster),
            (decision, _) => decision,
        }
    }

    /// Decides bytes by their original destination alone.
    pub fn tcp(&self, policy: PolicyId, dialled: SocketAddr, turn: impl Into<Turn>) -> TcpDecision {
        let listed = self.listed_tcp(policy, dialled, turn.into());
        listed.unwrap_or_else(|| self.unlisted(policy, dialled))
    }

    /// The same by the routes that list the destination; `None` if none does.
    pub(super) fn listed_tcp(
        &self,
        policy: PolicyId,
        dialled: SocketAddr,
        turn: Turn,
    ) -> Option<TcpDecision> {
        let port = self.port(policy, dialled.port())?;
        port.tcp.find(dialled.ip(), |route| {
            let cluster = &route.to.pick(turn)?.cluster;
            if let Some(why) = &cluster.policy.denied {
                return Some(TcpDecision::NotCarriedOut(Arc::clone(why)));
            }
            // A destination that leads nowhere does not keep other routes from taking the flow.
            let cluster = Some(cluster).filter(|c| !c.missing && c.takes(dialled.ip()))?;
            let cluster = Arc::clone(cluster);
            Some(if route.sniffed {
                TcpDecision::RelayNonHttp(cluster)
            } else {
                TcpDecision::Relay(cluster)
            })
        })
    }

    /// Whether a TLS connection with this server name is still listed, for any destination of its route. Whether its
    /// own destination is: [`Self::keeps_server`].
    pub fn lists_server(&self, policy: PolicyId, dialled: SocketAddr, sni: Option<&str>) -> bool {
        let leads = |route: &Arc<TlsRoute>| {
            within(&route.nets, dialled.ip()).then(|| leads_somewhere(&route.to, dialled))?
        };
        let by_name = || {
            let routes = self.port(policy, dialled.port())?;
            match sni {
                Some(name) => routes.tls.find(name, leads),
                None => routes.nameless(dialled.ip()).find_map(leads),
            }
        };
        by_name().unwrap_or_else(|| self.lists_tcp(policy, dialled))
    }

    /// Why a TLS connection without a server name is denied. If a network lists its address, that network needs one.
    pub fn no_server_name(&self, policy: PolicyId, dialled: SocketAddr) -> DenialReason {
        let addr = canonical(dialled.ip());
        let routes = self.port(policy, dialled.port());
        let listed = routes.and_then(|routes| routes.addresses.tls_network(addr));
        listed.map_or(
            DenialReason::NoServerName,
            DenialReason::NoServerNameInNetwork,
        )
    }

    /// The host whose routes decide about a request; `None` if no listed host takes it.
    pub fn deciding_host(
        &self,
        policy: PolicyId,
        dialled: SocketAddr,
        head: &RequestHead<'_>,
    ) -> Option<String> {
        let decides = |host: &Arc<VirtualHost>| {
            let decision = host.decide(dialled, head, 0.into());
            (!matches!(decision, HttpDecision::UnlistedHost)).then(|| host.host.clone())
        };
        let port = self.port(policy, dialled.port())?;
        port.find_host(dialled, head.authority, decides)
    }

    /// Whether a destination is listed for bytes without a name. Whether the one that they were led to is:
    /// [`Self::keeps_bytes`].
    pub fn lists_tcp(&self, policy: PolicyId, dialled: SocketAddr) -> bool {
        let listed = || {
            let port = self.port(policy, dialled.port())?;
            port.tcp
                .find(dialled.ip(), |route| leads_somewhere(&route.to, dialled))
        };
        listed().unwrap_or_else(|| matches!(self.unlisted(policy, dialled), TcpDecision::Relay(_)))
    }
}

impl PortRoutes {
    /// Decides one HTTP request among the hosts of this port only.
    pub fn by_host(
        &self,
        dialled: SocketAddr,
        head: &RequestHead<'_>,
        turn: impl Into<Turn>,
    ) -> HttpDecision {
        let turn = turn.into();
        let decided = |host: &Arc<VirtualHost>| match host.decide(dialled, head, turn) {
            // The host is not listed at this address, but a wildcard may be.
            HttpDecision::UnlistedHost => None,
            decided => Some(decided),
        };
        self.find_host(dialled, head.authority, decided)
            .unwrap_or(HttpDecision::UnlistedHost)
    }

    /// The first result that `look` has for one of the hosts that a Host may mean.
    pub(super) fn find_host<T>(
        &self,
        dialled: SocketAddr,
        authority: &str,
        look: impl Fn(&Arc<VirtualHost>) -> Option<T>,
    ) -> Option<T> {
        let host = parse_authority(authority).ok()?;
        match host.as_str().parse::<IpAddr>() {
            Ok(ip) => self.known_by(dialled.ip(), ip).find_map(look),
            Err(_) => self.hosts.find(host.as_str(), look),
        }
    }

    /// Hosts for a Host that is an address, the longest network first. It must be the address that was dialled: the
    /// name of one entry is never combined with the address of another.
    fn known_by(&self, dialled: IpAddr, host: IpAddr) -> impl Iterator<Item = &Arc<VirtualHost>> {
        let addr = canonical(dialled);
        let same = (canonical(host) == addr).then(|| self.addresses.hosts_of(addr));
        same.into_iter().flatten()
    }

    /// Routes that an address leads to without a server name.
    pub(super) fn nameless(&self, dialled: IpAddr) -> impl Iterator<Item = &Arc<TlsRoute>> {
        self.addresses.nameless(canonical(dialled))
    }
}

/// Whether a split leads a flow to a destination (true) or denies it (false). `None`: neither.
fn leads_somewhere(split: &Split, dialled: SocketAddr) -> Option<bool> {
    let takes = |c: &Arc<Cluster>| !c.missing && c.policy.denied.is_none() && c.takes(dialled.ip());
    if split.clusters().any(takes) {
        return Some(true);
    }
    split
        .clusters()
        .any(|c| c.policy.denied.is_some())
        .then_some(false)
}

impl VirtualHost {
    fn decide(&self, dialled: SocketAddr, head: &RequestHead<'_>, turn: Turn) -> HttpDecision {
        for route in &self.routes {
            let (fit, spec) = HttpMatch::best(&route.matches, head);
            match fit {
                Fit::No => continue,
                // Unknown: it may match this route, so no later route may take it. The route itself serves nothing.
                Fit::Yes | Fit::Unknown => {}
            }
            return match &route.action {
                Ok(_) if fit == Fit::Unknown => HttpDecision::NoRoute,
                Err(NoAction::Nowhere) => HttpDecision::NoRoute,
                Err(NoAction::NotCarriedOut(why)) => HttpDecision::NotCarriedOut(Arc::clone(why)),
                Ok(action) => match action.try_map(|to| destination(to, dialled, turn)) {
                    Ok(action) => {
                        let to = action.destinations();
                        let is_missing = to.is_some_and(|to| to.cluster.missing);
                        let act = Act {
                            action,
                            policy: Arc::clone(&route.policy),
                            spec,
                        };
                        if is_missing {
                            HttpDecision::NoCluster(act)
                        } else {
                            HttpDecision::Act(act)
                        }
                    }
                    Err(denied) => denied,
                },
            };
        }
        HttpDecision::NoRoute
    }
}

/// The cluster that one request of a route goes to, which may be missing, or why it is denied.
fn destination(to: &Split, dialled: SocketAddr, turn: Turn) -> Result<Target, HttpDecision> {
    let Some(Share {
        cluster, headers, ..
    }) = to.pick(turn)
    else {
        return Err(HttpDecision::NoRoute);
    };
    if let Some(why) = &cluster.policy.denied {
        return Err(HttpDecision::NotCarriedOut(Arc::clone(why)));
    }
    // Only for the cluster's own addresses: Host and destination must both be listed.
    if !cluster.missing && !cluster.takes(dialled.ip()) {
        return Err(HttpDecision::UnlistedHost);
    }
    Ok(Target {
        cluster: Arc::clone(cluster),
        headers: headers.clone(),
        mirrors: to.mirrors().cloned(),
    })
}
