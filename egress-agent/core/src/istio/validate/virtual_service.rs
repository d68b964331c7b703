//! Rules of `VirtualService` as a whole; its routes have files of their own.

use super::addresses::is_ip;
use super::check::Check;
use super::common::{self, Exporter};
use super::headers::is_claim;
use super::hosts::HostSet;
use super::http_route::http_route;
use super::l4_route::{Context, tcp_route, tls_route};
use super::{names, unreachable};
use crate::istio::virtual_service::VirtualService;

/// Most hosts that a message lists.
const MAX_LISTED: usize = 100;

/// Checks the spec of a `VirtualService`.
pub fn virtual_service(check: &mut Check<'_>, service: &VirtualService) {
    let context = Context {
        is_delegate: service.hosts.is_empty(),
        is_gateway: !service.gateways.iter().any(|gateway| gateway == "mesh"),
        hosts: HostSet::new(&service.hosts),
        host_list: service
            .hosts
            .iter()
            .take(MAX_LISTED)
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(", "),
    };
    if context.is_delegate {
        delegate(check, service);
    }
    let only_gateways = !service.gateways.is_empty() && context.is_gateway;
    common::gateway_names(check, &service.gateways);
    if !only_gateways {
        claims(check, service);
    }
    hosts(check, service, &context, only_gateways);
    if service.http.is_empty() && service.tcp.is_empty() && service.tls.is_empty() {
        check.error("http, tcp or tls must be provided in virtual service");
    }
    check.each("http", &service.http, |check, route| {
        http_route(check, route, context.is_delegate);
    });
    check.each("tls", &service.tls, |check, route| {
        tls_route(check, route, &context);
    });
    check.errors_only(|check| check.each("tcp", &service.tcp, tcp_route));
    common::export_to(check, &service.export_to, Exporter::Other);
    unreachable::http(check, &service.http);
    unreachable::tcp(check, &service.tcp);
    unreachable::tls(check, &service.tls);
}

fn delegate(check: &mut Check<'_>, service: &VirtualService) {
    for (is_set, key, what) in [
        (!service.gateways.is_empty(), "gateways", "gateways"),
        (!service.tls.is_empty(), "tls", "tls route"),
        (!service.tcp.is_empty(), "tcp", "tcp route"),
    ] {
        if is_set {
            check.at(key, |check| {
                check.error(format!(
                    "delegate virtual service must have no {what} specified"
                ));
            });
        }
    }
}

/// Claims of tokens, which only gateways check.
fn claims(check: &mut Check<'_>, service: &VirtualService) {
    let gateways = service.gateways.join(" ");
    check.each("http", &service.http, |check, route| {
        check.each("match", &route.r#match, |check, request| {
            for (key, map) in [("headers", &request.headers), ("withoutHeaders", &request.without_headers)] {
                check.each_entry(key, map, |check, name, _| {
                    if is_claim(name) {
                        check.error_with(|| format!(
                            "JWT claim based routing (key: {name}) is only supported for gateway, found no gateways: [{gateways}]"
                        ));
                    }
                });
            }
        });
    });
}

fn hosts(
    check: &mut Check<'_>,
    service: &VirtualService,
    context: &Context<'_>,
    only_gateways: bool,
) {
    let matches_sni = service
        .tls
        .iter()
        .flat_map(|route| &route.r#match)
        .any(|request| !request.sni_hosts.is_empty());
    let mut all_fit = true;
    check.each("hosts", &service.hosts, |check, host| {
        let rule = if only_gateways {
            names::gateway_domain(matches_sni, host)
        } else {
            names::wildcard_domain(host)
        };
        let rule = match rule {
            Ok(()) if !only_gateways && host == "*" => Err(
                "wildcard host * is not allowed for virtual services bound to the mesh gateway"
                    .to_owned(),
            ),
            Err(_) if is_ip(host) => Ok(()),
            rule => rule,
        };
        all_fit &= rule.is_ok();
        check.require(rule);
    });
    if !all_fit {
        return;
    }
    for (first, second) in context.hosts.overlaps() {
        let text = format!(
            "duplicate hosts in virtual service: {} & {}",
            service.hosts[first], service.hosts[second]
        );
        check.element("hosts", second, |check| check.error(text));
    }
}
