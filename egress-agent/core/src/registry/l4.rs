//! Routes of `VirtualService`s for TLS and TCP.
//!
//! Order and precedence as in istio `pilot/pkg/networking/core/tls.go`.

use super::VirtualService;
use super::destination_policy::not_carried_out;
use super::not_done::table::{TCP_MATCH, serves_nothing};
use super::plan::{Context, Shares, TcpPlan, TlsPlan};
use super::scope::Scope;
use super::services::{Service, network};
use super::target::shares;
use crate::istio::hosts;
use crate::istio::virtual_service::{RouteDestination, TlsMatchAttributes};
use crate::traffic::ClusterPolicy;
use ipnet::IpNet;
use std::collections::BTreeMap;

/// What both kinds of match have in common.
struct Conditions<'a> {
    port: u32,
    labels: &'a BTreeMap<String, String>,
    namespace: &'a str,
    gateways: &'a [String],
}

impl<'a> Conditions<'a> {
    fn of_tls(m: &'a TlsMatchAttributes) -> Self {
        Self {
            port: m.port,
            labels: &m.source_labels,
            namespace: &m.source_namespace,
            gateways: &m.gateways,
        }
    }

    fn hold(&self, vs: &VirtualService, port: u16, scope: &Scope) -> bool {
        let source = !self.gateways.is_empty() || scope.is_source(self.labels, self.namespace);
        (self.port == 0 || self.port == u32::from(port)) && vs.for_mesh(self.gateways) && source
    }
}

/// Whether a `VirtualService` has a tls route for connections of this client on a port: for this server name, if one is
/// given.
pub fn has_tls(vs: &VirtualService, port: u16, scope: &Scope, name: Option<&str>) -> bool {
    let takes = |m: &TlsMatchAttributes| {
        let mut names = m.sni_hosts.iter().map(|host| hosts::canonical(host));
        let covered = name.is_none_or(|name| names.any(|host| hosts::covers(&host, name)));
        covered && Conditions::of_tls(m).hold(vs, port, scope)
    };
    let mut matches = vs.spec().tls.iter().flat_map(|route| &route.r#match);
    matches.any(takes)
}

/// TLS routes for a port. If any applies, the service's own name no longer leads to it on this port.
pub(super) fn tls(service: &Service, port: u16, context: &Context<'_>) -> Vec<TlsPlan> {
    let mut plans = Vec::new();
    for vs in context.registry.rules_for(&service.host, context.scope) {
        for route in &vs.spec().tls {
            for m in &route.r#match {
                if !Conditions::of_tls(m).hold(vs, port, context.scope) {
                    continue;
                }
                let names = m.sni_hosts.iter();
                // A VirtualService may also name hosts of other services.
                let names = names.map(|h| hosts::canonical(h).to_string());
                let nets = subnets(&m.destination_subnets);
                let sni_hosts = if nets.is_none() {
                    Vec::new()
                } else {
                    names.collect()
                };
                plans.push(TlsPlan {
                    sni_hosts,
                    nets: nets.unwrap_or_default(),
                    to: destinations(&route.route, vs, port, context),
                });
            }
        }
    }
    plans
}

/// TCP routes for a port; the first without subnets ends the list.
pub(super) fn tcp(service: &Service, port: u16, context: &Context<'_>) -> Vec<TcpPlan> {
    let mut plans = Vec::new();
    for vs in context.registry.rules_for(&service.host, context.scope) {
        for (index, route) in vs.spec().tcp.iter().enumerate() {
            let to = || destinations(&route.route, vs, port, context);
            if route.r#match.is_empty() && vs.for_mesh(&[]) {
                plans.push(TcpPlan {
                    nets: None,
                    to: to(),
                });
                return plans;
            }
            for (n, m) in route.r#match.iter().enumerate() {
                let conditions = Conditions {
                    port: m.port,
                    labels: &m.source_labels,
                    namespace: &m.source_namespace,
                    gateways: &m.gateways,
                };
                if !conditions.hold(vs, port, context.scope) {
                    continue;
                }
                let mut to = to();
                if let Some(field) = serves_nothing(TCP_MATCH, m) {
                    let field = format!("spec.tcp[{index}].match[{n}].{field}");
                    let why = not_carried_out(&field, &vs.object);
                    for share in &mut to {
                        share.to.policy = ClusterPolicy::denying(&why);
                    }
                }
                let whole = m.destination_subnets.is_empty();
                // A subnet that cannot be read is not a subnet.
                let nets = (!whole).then(|| subnets(&m.destination_subnets).unwrap_or_default());
                if nets.as_ref().is_some_and(Vec::is_empty) {
                    continue;
                }
                plans.push(TcpPlan { nets, to });
                if whole {
                    return plans;
                }
            }
        }
    }
    plans
}

/// The networks of a match; `None` if there are some and none can be read.
fn subnets(texts: &[String]) -> Option<Vec<IpNet>> {
    let nets: Vec<_> = texts.iter().filter_map(|t| network(t)).collect();
    (texts.is_empty() || !nets.is_empty()).then_some(nets)
}

fn destinations(
    route: &[RouteDestination],
    vs: &VirtualService,
    port: u16,
    context: &Context<'_>,
) -> Shares {
    let route = route
        .iter()
        .map(|r| (r.weight, r.destination.as_ref(), None));
    shares(route, vs, port, context)
}
