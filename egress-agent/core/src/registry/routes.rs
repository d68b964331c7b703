//! How a port of a service handles a flow: by the routes of the `VirtualService` that is in force, or by the service
//! itself.
//!
//! Owns which `VirtualService` applies and in which order. Names destinations by host and port;
//! `policy` knows their present addresses.

use super::delegate::{merged, unusable};
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

/// What a service does with flows, by port. Ports that the kernel alone decides, those of UDP and those that serve
/// learned addresses only, are here if they are denied.
pub fn plan(service: &Service, context: &Context<'_>) -> HostPlan {
    let mut plans = Vec::new();
    // An invalid VirtualService may be one that narrows, so nothing of the host is served.
    let mut rules = context.registry.rules_for(&service.host, context.scope);
    let invalid = rules.find_map(|vs| vs.object.denied.clone());
    let own = |number| {
        let policy = match &invalid {
            Some(why) => ClusterPolicy::denying(why),
            None => Arc::new(policy(&service.host, None, number, service, context)),
        };
        itself(service, number, policy)
    };
    for number in service.unproxied_ports() {
        let own = own(number);
        if own.policy.denied.is_some() {
            let plan = PortPlan {
                own,
                ..PortPlan::default()
            };
            plans.push((number, plan));
        }
    }
    for (number, port) in service.ports() {
        if port.class == Class::Udp {
            continue;
        }
        let own = own(number);
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
    let bare = HttpMatchRequest::default();
    let applies = |route: &HttpRoute, inner: Option<&HttpRoute>| {
        pairs(route, inner, &bare).any(|pair| take(pair, vs, port, scope))
    };
    vs.spec().http.iter().any(|route| match &route.delegate {
        None => applies(route, None),
        Some(to) => match registry.delegate(to, vs) {
            Some(to) if to.object.denied.is_none() => {
                let mut routes = to.spec().http.iter();
                routes.any(|inner| applies(route, Some(inner)))
            }
            // It denies the requests that the route takes.
            Some(_) | None => applies(route, None),
        },
    })
}

/// The routes of a `VirtualService` on a dialled port; `None` if it has none for this port and client (istio `pilot/pkg/networking/core/route/route.go`, `BuildHTTPRoutesForVirtualService`).
fn http_routes(vs: &VirtualService, port: u16, context: &Context<'_>) -> Option<Vec<HttpPlan>> {
    let mut plans = Vec::new();
    for (index, route) in vs.spec().http.iter().enumerate() {
        if let Some(to) = &route.delegate {
            if let Some(delegate) = context.registry.delegate(to, vs) {
                plans.extend(delegated((route, vs), delegate, port, context));
            } else {
                let why = unusable(index, to, vs);
                plans.extend(denied((route, vs), &why, port, context));
            }
            continue;
        }
        let Some(matches) = matching(route, None, vs, port, context) else {
            continue;
        };
        let catch_all = matches.is_empty();
        plans.push(http_plan((index, route), matches, vs, port, context));
        if catch_all {
            break;
        }
    }
    (!plans.is_empty()).then_some(plans)
}

/// The requests that a route takes, which are denied because its delegate cannot be used; `None` if it takes none.
fn denied(
    (route, root): (&HttpRoute, &VirtualService),
    why: &Arc<str>,
    port: u16,
    context: &Context<'_>,
) -> Option<HttpPlan> {
    let matches = matching(route, None, root, port, context)?;
    Some(HttpPlan {
        matches,
        action: Err(NoAction::NotCarriedOut(Arc::clone(why))),
        mirrors: Vec::new(),
        policy: Arc::default(),
    })
}

/// The routes of a delegate, for the requests that the root's route takes.
fn delegated(
    (route, root): (&HttpRoute, &VirtualService),
    delegate: &VirtualService,
    port: u16,
    context: &Context<'_>,
) -> Vec<HttpPlan> {
    if let Some(why) = &delegate.object.denied {
        let denied = denied((route, root), why, port, context);
        return denied.into_iter().collect();
    }
    let plan = |(index, inner): (usize, &HttpRoute)| {
        let matches = matching(route, Some(inner), root, port, context)?;
        let route = merged((route, root), inner, &context.registry.domain);
        Some(http_plan((index, &route), matches, delegate, port, context))
    };
    let routes = delegate.spec().http.iter().enumerate();
    routes.filter_map(plan).collect()
}

fn http_plan(
    (index, route): (usize, &HttpRoute),
    matches: Vec<HttpMatch>,
    vs: &VirtualService,
    port: u16,
    context: &Context<'_>,
) -> HttpPlan {
    // Those of a delegate's route include the matches of the root.
    let of_root = || matches.iter().any(HttpMatch::is_broken).then_some("match");
    let action = match denied_route(route).or_else(of_root) {
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
/// does. `inner` is the delegate's route to which that of `root` leads.
fn matching(
    route: &HttpRoute,
    inner: Option<&HttpRoute>,
    root: &VirtualService,
    port: u16,
    context: &Context<'_>,
) -> Option<Vec<HttpMatch>> {
    let bare = HttpMatchRequest::default();
    let mut matches = Vec::new();
    for (of_root, own) in pairs(route, inner, &bare) {
        if take((of_root, own), root, port, context.scope) {
            let both = HttpMatch::new(of_root).and(HttpMatch::new(own));
            if both.is_bare() {
                return Some(Vec::new());
            }
            matches.push(both);
        }
    }
    (!matches.is_empty()).then_some(matches)
}

/// Each match of a route with each match of the delegate's route to which it leads (istio
/// `pilot/pkg/model/virtualservice.go`, `mergeHTTPMatchRequests`). `bare` stands for the match of a route without any.
fn pairs<'a>(
    route: &'a HttpRoute,
    inner: Option<&'a HttpRoute>,
    bare: &'a HttpMatchRequest,
) -> impl Iterator<Item = (&'a HttpMatchRequest, &'a HttpMatchRequest)> {
    let matches = move |route: Option<&'a HttpRoute>| match route {
        Some(route) if !route.r#match.is_empty() => route.r#match.as_slice(),
        Some(_) | None => std::slice::from_ref(bare),
    };
    let own = matches(inner);
    let of_root = matches(Some(route)).iter();
    of_root.flat_map(move |of_root| own.iter().map(move |own| (of_root, own)))
}

/// Whether requests of this client on a port can meet two matches together, as far as that is known before there is a
/// request. A match of a delegate that names no gateways has those of the root's match, and only if that names none
/// either, those of the root itself.
fn take(
    (of_root, own): (&HttpMatchRequest, &HttpMatchRequest),
    root: &VirtualService,
    port: u16,
    scope: &Scope,
) -> bool {
    let both = [of_root, own];
    let named = both.iter().any(|m| !m.gateways.is_empty());
    let gateways = if named {
        let mut lists = both.iter().filter(|m| !m.gateways.is_empty());
        lists.all(|m| root.for_mesh(&m.gateways))
    } else {
        root.for_mesh(&[])
    };
    // A match with gateways ignores the source (istio `sourceMatchHTTP`).
    let source = |m: &HttpMatchRequest| scope.is_source(&m.source_labels, &m.source_namespace);
    let here =
        |m: &&HttpMatchRequest| (m.port == 0 || m.port == u32::from(port)) && (named || source(m));
    gateways && both.iter().all(here)
}
