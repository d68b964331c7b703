//! How a port of a service handles a flow: by the routes of the `VirtualService` that is in force, or by the service
//! itself.
//!
//! Owns which `VirtualService` applies and in which order. Names destinations by host and port;
//! `policy` knows their present addresses.

use super::delegate::merged;
use super::destination_policy::{not_carried_out, policy};
use super::l4::{tcp, tls};
use super::not_done::denied_route;
use super::plan::{Context, HostPlan, HttpPlan, PortPlan, To};
use super::scope::Scope;
use super::services::{Class, Service};
use super::target::{itself, mirrors, shares};
use super::{Registry, VirtualService};
use crate::istio::virtual_service::{HttpMatchRequest, HttpRoute};
use crate::routing::HttpMatch;
use crate::traffic::{ClusterPolicy, HttpAction, NoAction, RoutePolicy};
use std::sync::Arc;

/// What a service does with flows, by port. UDP ports are not here.
pub fn plan(service: &Service, context: &Context<'_>) -> HostPlan {
    let mut plans = Vec::new();
    // An invalid VirtualService may be one that narrows, so nothing of the host is served.
    let mut rules = context.registry.rules_for(&service.host, context.scope);
    let invalid = rules.find_map(|vs| vs.object.denied.clone());
    for (number, port) in service.ports() {
        if port.class == Class::Udp {
            continue;
        }
        let policy = match &invalid {
            Some(why) => ClusterPolicy::denying(why),
            None => Arc::new(policy(&service.host, None, number, service, context)),
        };
        let own = itself(service, number, policy);
        let mut plan = PortPlan {
            own: own.clone(),
            ..PortPlan::default()
        };
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
    plans.into()
}

/// The first `VirtualService` with http routes for the port and the client takes the host; several are not merged.
fn http(service: &Service, port: u16, own: To, context: &Context<'_>) -> Vec<HttpPlan> {
    let mut rules = context.registry.rules_for(&service.host, context.scope);
    rules
        .find_map(|vs| http_routes(vs, port, context))
        .unwrap_or_else(|| vec![HttpPlan::all(own)])
}

/// Whether a `VirtualService` has http routes for requests of this client on a port. Without one it leaves them to the
/// next `VirtualService` of the host (istio `buildSidecarVirtualHostsForVirtualService`).
pub fn has_http(vs: &VirtualService, port: u16, registry: &Registry, scope: &Scope) -> bool {
    let applies = |route: &HttpRoute, of: &VirtualService| {
        let mut matches = route.r#match.iter();
        let all = matches.len() == 0 && vs.for_mesh(&[]);
        all || matches.any(|m| takes(m, of, vs, port, scope))
    };
    let leads = |to: &VirtualService| {
        to.object.denied.is_some() || to.spec().http.iter().any(|route| applies(route, to))
    };
    vs.spec().http.iter().any(|route| {
        let to = || registry.delegate(route.delegate.as_ref()?, vs);
        applies(route, vs) && (route.delegate.is_none() || to().is_some_and(leads))
    })
}

/// The routes of a `VirtualService` on a dialled port; `None` if it has none for this port and client (istio `pilot/pkg/networking/core/route/route.go`, `BuildHTTPRoutesForVirtualService`).
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
                        mirrors: Vec::new(),
                        policy: Arc::default(),
                    });
                    continue;
                }
                for (index, inner) in delegate.spec().http.iter().enumerate() {
                    let Some(own) = matching(inner, delegate, vs, port, context) else {
                        continue;
                    };
                    let both = HttpMatch::both(&matches, own);
                    let route = merged((route, vs), inner, &context.registry.domain);
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
            let to = to
                .iter()
                .map(|r| (r.weight, r.destination.as_ref(), r.headers.as_ref()));
            Some(shares(to, vs, port, context)).filter(|shares| !shares.is_empty())
        }),
    };
    let mut policy = RoutePolicy::from(route);
    // Istio `GetRouteOperation`.
    if route.route.len() > 1 {
        let operation = format!("{}:{port}", vs.object.meta.name);
        policy.operation = Some(operation.into());
    }
    let mirrors = match &action {
        Ok(HttpAction::Forward(_)) => mirrors(route, vs, port, context),
        Ok(HttpAction::Redirect(_) | HttpAction::Direct(_)) | Err(_) => Vec::new(),
    };
    HttpPlan {
        matches,
        action,
        mirrors,
        policy: Arc::new(policy),
    }
}

/// The conditions of a route that requests on this port can meet: `None` if no request can, empty if every request
/// does. `root` has the gateways of a delegate.
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
    let here = |m: &&HttpMatchRequest| takes(m, vs, root, port, context.scope);
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

/// Whether requests of this client on a port can meet a match, as far as that is known before there is a request.
fn takes(
    m: &HttpMatchRequest,
    vs: &VirtualService,
    root: &VirtualService,
    port: u16,
    scope: &Scope,
) -> bool {
    // A match with gateways of its own ignores the source (istio `sourceMatchHTTP`).
    let source = !m.gateways.is_empty() || scope.is_source(&m.source_labels, &m.source_namespace);
    let gateways = if m.gateways.is_empty() {
        root.for_mesh(&[])
    } else {
        vs.for_mesh(&m.gateways)
    };
    (m.port == 0 || m.port == u32::from(port)) && gateways && source
}
