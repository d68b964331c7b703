//! What a service's port does with a flow: the routes of the `VirtualService` that is in force for
//! it, or the service itself.
//!
//! Owns which `VirtualService` applies and in which order. Names destinations by host and port;
//! where these are at the moment is `policy`'s business.

use super::delegate::merged;
use super::destination_policy::{denied, not_carried_out};
use super::l4::{target, tcp, tls};
use super::not_done::denied_route;
use super::scope::Scope;
use super::services::{Class, Service};
use super::{Registry, VirtualService};
use crate::istio::fields::Destination;
use crate::istio::virtual_service::{HttpMatchRequest, HttpRoute};
use crate::routing::HttpMatch;
use crate::traffic::{HttpAction, NoAction, RoutePolicy};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A destination: a service's host, one of its ports, and which of its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct To {
    /// Host in canonical form; may be registered or not.
    pub host: Arc<str>,
    /// Port of that service.
    pub port: u16,
    /// Which endpoints.
    pub subset: Subset,
    /// Why it serves nothing, whatever its addresses: a rule about it cannot be carried out.
    pub denied: Option<Arc<str>>,
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

/// Destinations by weight; none means that what the route does cannot be done.
pub type Shares = Vec<(u32, To)>;

/// One HTTP route.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpPlan {
    /// Requests that it is for, any of them; empty means all.
    pub matches: Vec<HttpMatch>,
    /// What it does with them.
    pub action: Result<HttpAction<Shares>, NoAction>,
    /// What it asks for besides.
    pub policy: Arc<RoutePolicy>,
}

impl HttpPlan {
    /// Every request to one destination.
    fn all(to: To) -> Self {
        Self {
            matches: Vec::new(),
            action: Ok(HttpAction::Forward(vec![(1, to)])),
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
    /// Whether bytes that name nobody go to the service by its addresses.
    pub opaque: bool,
    /// Why the service itself serves nothing on this port.
    pub denied: Option<Arc<str>>,
}

impl PortPlan {
    /// Every destination that its routes lead to, but not the service itself.
    pub fn destinations(&self) -> impl Iterator<Item = &To> {
        let actions = self.http.iter().flatten().flat_map(|r| &r.action);
        let http = actions.filter_map(HttpAction::destinations).flatten();
        let tls = self.tls.iter().flat_map(|r| &r.to);
        let tcp = self.tcp.iter().flat_map(|r| &r.to);
        http.chain(tls).chain(tcp).map(|(_, to)| to)
    }
}

/// Every TCP port of one service. A list, since there are as many as hosts and each has a few.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostPlan(Vec<(u16, PortPlan)>);

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
    pub services: &'a BTreeMap<Arc<str>, Arc<Service>>,
    /// To whom.
    pub scope: &'a Scope,
}

/// What a service does with flows, by port. UDP ports are not here.
pub fn plan(service: &Service, context: &Context<'_>) -> HostPlan {
    let mut plans = Vec::new();
    // An invalid VirtualService may be the one that narrows: nothing of the host is served.
    let mut rules = context.registry.rules_for(&service.host, context.scope);
    let invalid = rules.find_map(|vs| vs.object.denied.clone());
    for (number, port) in service.ports() {
        if port.class == Class::Udp {
            continue;
        }
        let mut plan = PortPlan {
            denied: invalid
                .clone()
                .or_else(|| denied(&service.host, None, number, service, context)),
            ..PortPlan::default()
        };
        let own = itself(service, number, plan.denied.as_ref());
        if invalid.is_some() {
            plan.http = port.class.is_http().then(|| vec![HttpPlan::all(own)]);
            plan.own_name = port.class == Class::Tls;
            plan.opaque = matches!(port.class, Class::Tcp | Class::Sniffed);
            plans.push((number, plan));
            continue;
        }
        if port.class.is_http() {
            plan.http = Some(http(service, number, own, context));
        }
        match port.class {
            Class::Tls => {
                plan.tls = tls(service, number, context);
                plan.own_name = plan.tls.is_empty();
            }
            Class::Tcp | Class::Sniffed => {
                plan.tcp = tcp(service, number, context);
                plan.opaque = plan.tcp.iter().all(|r| r.nets.is_some());
            }
            Class::Http | Class::Udp => {}
        }
        plans.push((number, plan));
    }
    plans.shrink_to_fit();
    HostPlan(plans)
}

/// The way to a service itself, and why it serves nothing where it does.
pub fn itself(service: &Service, port: u16, denied: Option<&Arc<str>>) -> To {
    To {
        host: Arc::clone(&service.host),
        port,
        subset: Subset::All,
        denied: denied.cloned(),
    }
}

/// The first `VirtualService` with http routes has the host; they are not merged.
fn http(service: &Service, port: u16, own: To, context: &Context<'_>) -> Vec<HttpPlan> {
    let mut rules = context.registry.rules_for(&service.host, context.scope);
    let in_force = rules.find(|vs| !vs.spec().http.is_empty());
    in_force
        .and_then(|vs| http_routes(vs, port, context))
        .unwrap_or_else(|| vec![HttpPlan::all(own)])
}

/// The routes of a `VirtualService` on a dialled port; `None` if it has none for it, which leaves
/// the port to the service (istio `pilot/pkg/networking/core/route/route.go`,
/// `BuildHTTPRoutesForVirtualService`).
fn http_routes(vs: &VirtualService, port: u16, context: &Context<'_>) -> Option<Vec<HttpPlan>> {
    let mut plans = Vec::new();
    for (index, route) in vs.spec().http.iter().enumerate() {
        let Some(matches) = matching(route, vs, vs, port, context) else {
            continue;
        };
        let catch_all = matches.is_empty();
        match &route.delegate {
            None => plans.push(http_plan((index, route), matches, vs, port, context)),
            Some(to) => {
                let Some(delegate) = context.registry.delegate(to, vs) else {
                    continue;
                };
                if let Some(why) = &delegate.object.denied {
                    plans.push(HttpPlan {
                        matches,
                        action: Err(NoAction::NotCarriedOut(Arc::clone(why))),
                        policy: Arc::default(),
                    });
                    continue;
                }
                for (index, inner) in delegate.spec().http.iter().enumerate() {
                    let Some(own) = matching(inner, delegate, vs, port, context) else {
                        continue;
                    };
                    let both = HttpMatch::both(&matches, own);
                    let route = merged(route, inner);
                    plans.push(http_plan((index, &route), both, delegate, port, context));
                }
            }
        }
        if catch_all && route.delegate.is_none() {
            break;
        }
    }
    (!plans.is_empty()).then_some(plans)
}

fn http_plan(
    (index, route): (usize, &HttpRoute),
    matches: Vec<HttpMatch>,
    vs: &VirtualService,
    port: u16,
    context: &Context<'_>,
) -> HttpPlan {
    let action = match denied_route(route) {
        Some(field) => {
            let field = format!("spec.http[{index}].{field}");
            let why = not_carried_out(&field, &vs.object);
            Err(NoAction::NotCarriedOut(why))
        }
        None => HttpAction::of_rule(route, |to| {
            let to = to.iter().map(|r| (r.weight, r.destination.as_ref()));
            Some(shares(to, vs, port, context)).filter(|shares| !shares.is_empty())
        }),
    };
    HttpPlan {
        matches,
        action,
        policy: Arc::new(route.into()),
    }
}

/// The conditions of a route that requests on this port can fulfil: `None` if none can, empty if
/// all do. `root` has the gateways of a delegate.
fn matching(
    route: &HttpRoute,
    vs: &VirtualService,
    root: &VirtualService,
    port: u16,
    context: &Context<'_>,
) -> Option<Vec<HttpMatch>> {
    if route.r#match.is_empty() {
        return root.for_mesh(&[]).then(Vec::new);
    }
    let here = |m: &&HttpMatchRequest| {
        // With gateways of its own a match is not for a source (istio `sourceMatchHTTP`).
        let source = !m.gateways.is_empty()
            || context
                .scope
                .is_source(&m.source_labels, &m.source_namespace);
        let gateways = if m.gateways.is_empty() {
            root.for_mesh(&[])
        } else {
            vs.for_mesh(&m.gateways)
        };
        (m.port == 0 || m.port == u32::from(port)) && gateways && source
    };
    let mut matches = Vec::new();
    for m in route.r#match.iter().filter(here) {
        let m = HttpMatch::new(m);
        if m.is_bare() {
            return Some(Vec::new());
        }
        matches.push(m);
    }
    (!matches.is_empty()).then_some(matches)
}

/// Destinations by weight. A single one gets everything, whatever its weight.
pub(super) fn shares<'a>(
    route: impl Iterator<Item = (i32, Option<&'a Destination>)>,
    vs: &VirtualService,
    port: u16,
    context: &Context<'_>,
) -> Shares {
    let all: Vec<_> = route
        .filter_map(|(w, to)| Some((w, target(to?, vs, port, context))))
        .collect();
    if let [(_, only)] = all.as_slice() {
        return vec![(1, only.clone())];
    }
    let weighted = all
        .into_iter()
        .map(|(w, to)| (u32::try_from(w).unwrap_or(0), to));
    weighted.filter(|(w, _)| *w > 0).collect()
}
