//! Rules of TLS and TCP routes.

use super::check::Check;
use super::hosts::HostSet;
use super::http_route::{total_weight, weight};
use super::{addresses, common, names};
use crate::istio::virtual_service::{
    L4MatchAttributes, RouteDestination, TcpRoute, TlsMatchAttributes, TlsRoute,
};
use std::collections::BTreeMap;

/// What a route must know of the object around it.
pub struct Context<'v> {
    /// Whether it holds routes for another `VirtualService`.
    pub is_delegate: bool,
    /// Whether no gateway of it is `mesh`. True too where it names none, as in Istio.
    pub is_gateway: bool,
    /// Its hosts.
    pub hosts: HostSet<'v>,
    /// Its hosts, for a message.
    pub host_list: String,
}

/// Checks one TLS route.
pub fn tls_route(check: &mut Check<'_>, route: &TlsRoute, context: &Context<'_>) {
    if route.r#match.is_empty() {
        check.error("TLS route must have at least one match condition");
    }
    check.each("match", &route.r#match, |check, request| {
        tls_match(check, request, context);
    });
    if route.route.is_empty() {
        check.error("TLS route is required");
    }
    destinations(check, &route.route);
}

fn tls_match(check: &mut Check<'_>, request: &TlsMatchAttributes, context: &Context<'_>) {
    if request.sni_hosts.is_empty() {
        check.error("TLS match must have at least one SNI host");
    }
    check.each("sniHosts", &request.sni_hosts, |check, host| {
        sni_host(check, host, context);
    });
    conditions(
        check,
        &request.destination_subnets,
        request.port,
        &request.source_labels,
        &request.gateways,
    );
}

/// A server name must be one of the hosts or part of one; case counts.
fn sni_host(check: &mut Check<'_>, host: &str, context: &Context<'_>) {
    let rule = if context.is_gateway {
        names::gateway_domain(true, host)
    } else {
        names::wildcard_domain(host)
    };
    match rule {
        Err(_) if addresses::is_ip(host) => {
            check.warn(format!(
                "using an IP address ({host:?}) goes against SNI spec and most clients do not support this"
            ));
        }
        Err(reason) => check.error(reason),
        Ok(()) if context.hosts.covers(host) => {}
        Ok(()) => check.error_with(|| format!(
            "SNI host {host:?} is not a compatible subset of any of the virtual service hosts: [{}]",
            context.host_list
        )),
    }
}

/// Checks one TCP route.
pub fn tcp_route(check: &mut Check<'_>, route: &TcpRoute) {
    check.each("match", &route.r#match, tcp_match);
    if route.route.is_empty() {
        check.error("TCP route is required");
    }
    destinations(check, &route.route);
}

fn tcp_match(check: &mut Check<'_>, request: &L4MatchAttributes) {
    conditions(
        check,
        &request.destination_subnets,
        request.port,
        &request.source_labels,
        &request.gateways,
    );
}

/// What both kinds of match have in common.
fn conditions(
    check: &mut Check<'_>,
    subnets: &[String],
    port: u32,
    labels: &BTreeMap<String, String>,
    gateways: &[String],
) {
    check.each("destinationSubnets", subnets, |check, subnet| {
        check.require(addresses::subnet(subnet));
    });
    if port != 0 {
        check.at("port", |check| check.require(common::port(port)));
    }
    common::labels(check, "sourceLabels", labels);
    common::gateway_names(check, gateways);
}

fn destinations(check: &mut Check<'_>, routes: &[RouteDestination]) {
    check.each("route", routes, |check, route| {
        if route.destination.is_none() {
            check.error("destination is required");
        }
        check.some(
            "destination",
            route.destination.as_ref(),
            common::destination,
        );
        check.at("weight", |check| check.require(weight(route.weight)));
    });
    check.at("route", |check| {
        check.require(total_weight(routes.iter().map(|route| route.weight)));
    });
}
