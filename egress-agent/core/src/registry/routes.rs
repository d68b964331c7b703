//! What a service's port does with a flow: the routes of the `VirtualService` that is in force for
//! it, or the service itself.
//!
//! Owns which `VirtualService` applies and in which order. Names destinations by host and port;
//! where these are at the moment is `policy`'s business.

use super::services::{Class, Service};
use super::{Registry, VirtualService, hosts};
use crate::istio::duration::TimeSpan;
use crate::istio::fields::Destination;
use crate::istio::virtual_service::{
    HttpMatchRequest, HttpRoute, RouteDestination, TlsMatchAttributes,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A destination: a service's host and one of its ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct To {
    /// Host in canonical form; may be registered or not.
    pub host: Arc<str>,
    /// Port of that service.
    pub port: u16,
}

/// One HTTP route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpPlan {
    /// Where it goes.
    pub to: To,
    /// `timeout`.
    pub timeout: Option<Duration>,
}

/// One TLS route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsPlan {
    /// Server names.
    pub sni_hosts: Vec<String>,
    /// Where it goes.
    pub to: To,
}

/// What one port of one service does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPlan {
    /// Routes of the virtual host, if HTTP is spoken here.
    pub http: Option<Vec<HttpPlan>>,
    /// Routes of `VirtualService`s for TLS.
    pub tls: Vec<TlsPlan>,
    /// Whether the service's own name leads to it by SNI.
    pub own_name: bool,
}

/// Every port of one service.
pub type HostPlan = BTreeMap<u16, PortPlan>;

/// What a service does with flows, by port. Ports without HTTP or TLS are not here.
pub fn plan(service: &Service, registry: &Registry) -> HostPlan {
    let mut plans = HostPlan::new();
    for (number, port) in service.ports() {
        let mut plan = PortPlan::default();
        if port.class.is_http() {
            plan.http = Some(http(service, number, registry));
        }
        if matches!(port.class, Class::Tls) {
            plan.tls = tls(service, number, registry);
        }
        plan.own_name = matches!(port.class, Class::Tls | Class::Sniffed) && plan.tls.is_empty();
        if plan != PortPlan::default() {
            plans.insert(number, plan);
        }
    }
    plans
}

fn http(service: &Service, port: u16, registry: &Registry) -> Vec<HttpPlan> {
    let own = || {
        vec![HttpPlan {
            to: To {
                host: Arc::clone(&service.host),
                port,
            },
            timeout: None,
        }]
    };
    registry
        .http_rules(&service.host)
        .and_then(|vs| http_routes(vs, port, registry))
        .unwrap_or_else(own)
}

/// The routes of a `VirtualService` on a dialled port; `None` if it has none for it, which leaves
/// the port to the service (istio `pilot/pkg/networking/core/route/route.go`,
/// `BuildHTTPRoutesForVirtualService`).
fn http_routes(vs: &VirtualService, port: u16, registry: &Registry) -> Option<Vec<HttpPlan>> {
    let mut applies = false;
    let mut plans = Vec::new();
    for route in &vs.spec().http {
        let catch_all = match matching(route, vs, port) {
            Matching::No => continue,
            Matching::Some => false,
            Matching::All => true,
        };
        applies = true;
        let to = route
            .route
            .iter()
            .filter(|r| r.weight > 0 || route.route.len() == 1)
            .find_map(|r| r.destination.as_ref());
        if let (true, Some(to)) = (catch_all, to) {
            let to = target(to, vs, port, registry);
            let timeout = route.timeout.map(TimeSpan::duration);
            plans.push(HttpPlan { to, timeout });
        }
        if catch_all {
            break;
        }
    }
    applies.then_some(plans)
}

/// Which requests on a port a route is for.
enum Matching {
    /// None.
    No,
    /// Those that fulfil conditions. The proxy cannot judge them yet, so they get no route.
    Some,
    /// All.
    All,
}

fn matching(route: &HttpRoute, vs: &VirtualService, port: u16) -> Matching {
    let Some(first) = route.r#match.first() else {
        return if vs.for_mesh(&[]) {
            Matching::All
        } else {
            Matching::No
        };
    };
    let mut found = Matching::No;
    for m in std::iter::once(first).chain(&route.r#match[1..]) {
        if (m.port != 0 && m.port != u32::from(port)) || !vs.for_mesh(&m.gateways) {
            continue;
        }
        if is_bare(m) {
            return Matching::All;
        }
        found = Matching::Some;
    }
    found
}

/// Whether a match has no condition but port and gateways.
fn is_bare(m: &HttpMatchRequest) -> bool {
    let bare = HttpMatchRequest {
        name: m.name.clone(),
        port: m.port,
        gateways: m.gateways.clone(),
        stat_prefix: m.stat_prefix.clone(),
        ignore_uri_case: m.ignore_uri_case,
        ..HttpMatchRequest::default()
    };
    *m == bare
}

fn tls(service: &Service, port: u16, registry: &Registry) -> Vec<TlsPlan> {
    let mut plans = Vec::new();
    for vs in registry.tls_rules(&service.host) {
        for route in &vs.spec().tls {
            for m in &route.r#match {
                let here = m.port == 0 || m.port == u32::from(port);
                if !here || !vs.for_mesh(&m.gateways) {
                    continue;
                }
                let sni_hosts = if is_plain(m) {
                    names(&m.sni_hosts)
                } else {
                    Vec::new()
                };
                // A match whose conditions cannot be judged yet still takes the port from the
                // service's own name: it must not let through what the route would refuse.
                let to = first(&route.route).map(|d| target(d, vs, port, registry));
                plans.extend(to.map(|to| TlsPlan { sni_hosts, to }));
            }
        }
    }
    plans
}

fn is_plain(m: &TlsMatchAttributes) -> bool {
    m.destination_subnets.is_empty() && m.source_labels.is_empty() && m.source_namespace.is_empty()
}

fn names(hosts: &[String]) -> Vec<String> {
    hosts
        .iter()
        .map(|h| hosts::canonical(h).to_string())
        .collect()
}

fn first(route: &[RouteDestination]) -> Option<&Destination> {
    route
        .iter()
        .filter(|r| r.weight > 0 || route.len() == 1)
        .find_map(|r| r.destination.as_ref())
}

/// Host and port of a destination (istio `GetDestinationCluster`): without a port it is the
/// service's only one, else the one that was dialled.
fn target(to: &Destination, vs: &VirtualService, dialled: u16, registry: &Registry) -> To {
    let host = hosts::full_name(&to.host, &vs.object.meta.namespace, &registry.domain);
    let only = || {
        let ports = registry.services.get(&host)?.ports();
        (ports.len() == 1).then(|| ports.keys().next().copied())?
    };
    let port = match &to.port {
        // A number that is no port leads nowhere: no service lists port 0.
        Some(port) => u16::try_from(port.number).unwrap_or(0),
        None => only().unwrap_or(dialled),
    };
    To { host, port }
}
