//! How services handle flows, as data: the routes of each port, and their destinations by host and port.
//!
//! `policy` knows the present addresses of destinations; `routes` decides which route applies.

use super::Registry;
use super::scope::Scope;
use super::services::Service;
use crate::routing::HttpMatch;
use crate::traffic::{
    ClusterId, ClusterPolicy, Fraction, HeaderChanges, HttpAction, NoAction, RoutePolicy,
};
use imbl::OrdMap;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct To {
    /// Which service, port and subset.
    pub id: ClusterId,
    /// Which endpoints of the service.
    pub subset: Subset,
    /// What `DestinationRule`s ask for it.
    pub policy: Arc<ClusterPolicy>,
}

/// Which endpoints of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subset {
    /// All.
    #[default]
    All,
    /// Those with these labels.
    Labels(Arc<BTreeMap<String, String>>),
    /// One that no `DestinationRule` defines.
    Undefined,
}

/// Destinations by weight. Without any, the route cannot do what it says.
pub type Shares = Vec<Share>;

/// One of several destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Relative to the sum of all.
    pub weight: u32,
    /// The destination.
    pub to: To,
    /// What an HTTP route changes for this destination alone.
    pub headers: Option<Arc<HeaderChanges>>,
}

impl Share {
    /// Everything to one destination.
    pub(super) fn all(to: To) -> Self {
        Self {
            weight: 1,
            to,
            headers: None,
        }
    }
}

/// A destination that gets copies of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// The destination.
    pub to: To,
    /// Of which share of the requests.
    pub share: Fraction,
}

/// One HTTP route.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpPlan {
    /// It is for requests that match any of these; empty means all requests.
    pub matches: Vec<HttpMatch>,
    /// What it does with them.
    pub action: Result<HttpAction<Shares>, NoAction>,
    /// Who gets copies of the requests that it forwards.
    pub mirrors: Vec<Mirror>,
    /// Its other settings.
    pub policy: Arc<RoutePolicy>,
}

impl HttpPlan {
    /// Every request to one destination.
    pub(super) fn all(to: To) -> Self {
        Self {
            matches: Vec::new(),
            action: Ok(HttpAction::Forward(vec![Share::all(to)])),
            mirrors: Vec::new(),
            policy: Arc::default(),
        }
    }
}

/// One TLS route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPlan {
    /// Server names.
    pub sni_hosts: Vec<String>,
    /// `destinationSubnets`; empty means all.
    pub nets: Vec<IpNet>,
    /// Where it goes.
    pub to: Shares,
}

/// One TCP route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpPlan {
    /// `destinationSubnets`; `None` means the addresses of the service itself.
    pub nets: Option<Vec<IpNet>>,
    /// Where it goes.
    pub to: Shares,
}

/// What one port of one service does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PortPlan {
    /// Routes of the virtual host, if HTTP is spoken here.
    pub http: Option<Vec<HttpPlan>>,
    /// Routes of `VirtualService`s for TLS.
    pub tls: Vec<TlsPlan>,
    /// Whether the service's own name leads to it by SNI.
    pub own_name: bool,
    /// Routes of `VirtualService`s for TCP.
    pub tcp: Vec<TcpPlan>,
    /// Whether bytes without a name reach the service by its addresses.
    pub opaque: bool,
    /// The way to the service itself.
    pub own: To,
}

impl PortPlan {
    /// Every destination that its routes lead to or copy requests to, without `own`.
    pub fn destinations(&self) -> impl Iterator<Item = &To> {
        let actions = self.http.iter().flatten().flat_map(|r| &r.action);
        let http = actions.filter_map(HttpAction::destinations).flatten();
        let copies = self.http.iter().flatten().flat_map(|r| &r.mirrors);
        let copies = copies.map(|mirror| &mirror.to);
        let tls = self.tls.iter().flat_map(|r| &r.to);
        let tcp = self.tcp.iter().flat_map(|r| &r.to);
        let shares = http.chain(tls).chain(tcp).map(|share| &share.to);
        shares.chain(copies)
    }
}

/// Every TCP port of one service, and its other ports that are denied. A list, since there are as many as hosts and each has a few.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostPlan(Vec<(u16, PortPlan)>);

impl From<Vec<(u16, PortPlan)>> for HostPlan {
    fn from(mut ports: Vec<(u16, PortPlan)>) -> Self {
        ports.shrink_to_fit();
        Self(ports)
    }
}

impl HostPlan {
    /// The plan of a port.
    pub fn get(&self, port: u16) -> Option<&PortPlan> {
        self.iter().find(|(p, _)| *p == port).map(|(_, plan)| plan)
    }

    /// Every port with its plan.
    pub fn iter(&self) -> impl Iterator<Item = (u16, &PortPlan)> {
        self.0.iter().map(|(port, plan)| (*port, plan))
    }

    /// Every destination that the routes lead to.
    pub fn destinations(&self) -> impl Iterator<Item = &To> {
        self.0.iter().flat_map(|(_, plan)| plan.destinations())
    }
}

/// What plans are made with.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Rules.
    pub registry: &'a Registry,
    /// Services that are visible.
    pub services: &'a OrdMap<Arc<str>, Arc<Service>>,
    /// The scope in which they are visible.
    pub scope: &'a Scope,
}
