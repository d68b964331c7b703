//! What a port lists: hosts, server names and networks, each with its routes and their destinations. Plain values, so
//! that tests can write them as literals. `table` has the ports.

use super::by_name::Named;
use super::inside::{leads_inside, within};
use super::matching::HttpMatch;
use super::turns::{Turn, Turns, weighted};
use crate::traffic::{
    ClusterId, ClusterPolicy, Fraction, HeaderChanges, HttpAction, NoAction, RoutePolicy,
    UpstreamProtocol,
};
use ipnet::IpNet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The HTTP routes of one host on one port.
#[derive(Clone, Debug, PartialEq)]
pub struct VirtualHost {
    /// Lower-case host or wildcard (`*.example.com`) as the `ServiceEntry` lists it.
    pub host: String,
    /// Destinations at which it is listed (`addresses` with resolution NONE); empty means all.
    pub nets: Vec<IpNet>,
    /// In order; the first that matches wins. If none matches, the reply is 404 (flag NR).
    pub routes: Vec<Arc<HttpRoute>>,
}

impl Named for VirtualHost {
    fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.host.as_str())
    }
}

/// One HTTP route.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// It is for requests that match any of these; empty means all requests.
    pub matches: Vec<HttpMatch>,
    /// The route's action on matching requests. A route without an action denies them.
    pub action: Result<HttpAction<Split>, NoAction>,
    /// Its other settings.
    pub policy: Arc<RoutePolicy>,
}

/// One TLS route.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsRoute {
    /// Lower-case names or wildcards.
    pub sni_hosts: Vec<String>,
    /// `destinationSubnets`: destinations that it is for; empty means all.
    pub nets: Vec<IpNet>,
    /// Where to.
    pub to: Split,
}

impl Named for TlsRoute {
    fn names(&self) -> impl Iterator<Item = &str> {
        self.sni_hosts.iter().map(String::as_str)
    }
}

/// One route for bytes that are not read.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRoute {
    /// Destinations that it is for: without host bits, sorted, each once.
    pub nets: Vec<IpNet>,
    /// The port has no protocol, so HTTP is routed by its Host and only other bytes are relayed. Otherwise the protocol
    /// is TCP, and HTTP to an unlisted Host is relayed too.
    pub sniffed: bool,
    /// Where to.
    pub to: Split,
}

/// Destinations by weight. Weights are relative to their sum; those of 0 get nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Split {
    shares: Vec<Share>,
    turns: Turns,
    mirrors: Option<Arc<[Mirror]>>,
}

/// One of several destinations.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Share {
    /// Relative to the sum of all.
    pub weight: u32,
    /// The destination.
    pub cluster: Arc<Cluster>,
    /// What an HTTP route changes for this destination alone.
    pub headers: Option<Arc<HeaderChanges>>,
}

/// A destination that gets copies of requests.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// The destination.
    pub cluster: Arc<Cluster>,
    /// Of which share of the requests.
    pub share: Fraction,
}

impl From<Vec<Share>> for Split {
    fn from(shares: Vec<Share>) -> Self {
        Self {
            shares,
            turns: Turns::default(),
            mirrors: None,
        }
    }
}

impl From<Vec<(u32, Arc<Cluster>)>> for Split {
    fn from(shares: Vec<(u32, Arc<Cluster>)>) -> Self {
        let share = |(weight, cluster)| Share {
            weight,
            cluster,
            headers: None,
        };
        shares.into_iter().map(share).collect::<Vec<_>>().into()
    }
}

impl Split {
    /// Everything to one place.
    pub fn one(cluster: Arc<Cluster>) -> Self {
        vec![(1, cluster)].into()
    }

    /// The same, with copies for these.
    #[must_use]
    pub fn mirrored(mut self, mirrors: Vec<Mirror>) -> Self {
        self.mirrors = (!mirrors.is_empty()).then(|| mirrors.into());
        self
    }

    /// Who gets copies. `None`: nobody.
    pub fn mirrors(&self) -> Option<&Arc<[Mirror]>> {
        self.mirrors.as_ref()
    }

    /// The destinations that get a share.
    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        let weighed = self.shares.iter().filter(|share| share.weight > 0);
        weighed.map(|share| &share.cluster)
    }

    /// The destination of one request or connection. Even a few draws in a row follow the weights closely.
    pub fn pick(&self, turn: Turn) -> Option<&Share> {
        let weights = self.shares.iter().map(|share| share.weight);
        let at = weighted(weights, self.turns.number(turn));
        self.shares.get(at).filter(|share| share.weight > 0)
    }
}

/// A destination: one service on one port and the addresses it has at the moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Which service, port and subset. Host and port are part of `x-envoy-decorator-operation`.
    pub id: ClusterId,
    /// Addresses to dial, sorted. If empty, the reply is 503 `no healthy upstream`.
    pub endpoints: Vec<SocketAddr>,
    /// The weight of each endpoint, in their order. Empty if all are equal.
    pub weights: Vec<u32>,
    /// The endpoints are what DNS answered for names: if one does not connect soon, another one is dialled beside it.
    pub named: bool,
    /// Further addresses of the only endpoint's name, in the order of the answer. They are dialled only if the endpoint
    /// does not connect (resolution `DNS_ROUND_ROBIN`, Envoy's `LOGICAL_DNS`).
    pub further: Vec<SocketAddr>,
    /// Resolution NONE: dial what the client dialled (on this port, where `targetPort` is set).
    pub original_dst: Option<u16>,
    /// Resolution `DYNAMIC_DNS`: the name that the client asks for is resolved, and its addresses are dialled on this port.
    pub dynamic: Option<u16>,
    /// With `original_dst`: the only addresses that may be dialled. Empty means all except those of the machine itself
    /// and of its platform.
    pub nets: Vec<IpNet>,
    /// The service, its port or the subset is not registered: 503 with an empty body, flag NC.
    pub missing: bool,
    /// Flows are balanced over all endpoints (resolution STATIC, or a rule that says how). Otherwise the dialled address
    /// comes first, if it is an endpoint.
    pub balanced: bool,
    /// The version of HTTP that its endpoints get.
    pub protocol: UpstreamProtocol,
    /// What `DestinationRule`s ask for it.
    pub policy: Arc<ClusterPolicy>,
}

impl Cluster {
    /// Whether the cluster may take a flow to this destination.
    pub fn takes(&self, dialled: IpAddr) -> bool {
        match self.original_dst {
            None => true,
            // "Any address" excludes those that lead inside.
            Some(_) if self.nets.is_empty() => !leads_inside(dialled),
            Some(_) => within(&self.nets, dialled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_met_within_a_hundred_turns_of_any_stride() {
        for weights in [[50, 25, 25], [80, 10, 10], [1, 1, 0], [7, 0, 3]] {
            let named = |(n, w): (usize, &u32)| {
                let cluster = Cluster {
                    id: ClusterId::new(n.to_string(), 80),
                    ..Cluster::default()
                };
                (*w, Arc::new(cluster))
            };
            let split = Split::from(weights.iter().enumerate().map(named).collect::<Vec<_>>());
            let total: u32 = weights.iter().sum();
            for stride in [1, 2, 3, 5] {
                let mut counts = [0_u32; 3];
                for turn in 0..100 {
                    let place: usize = split
                        .pick(Turn::At(turn * stride))
                        .unwrap()
                        .cluster
                        .id
                        .host
                        .parse()
                        .unwrap();
                    counts[place] += 1;
                }
                for (count, weight) in counts.iter().zip(weights) {
                    let fair = weight * 100 / total;
                    assert!(count.abs_diff(fair) <= 4, "{weights:?} {stride} {counts:?}");
                }
            }
        }
        assert_eq!(Split::default().pick(Turn::At(3)), None);
    }
}
