//! The text of an explanation: for each verdict, and for the rule behind it.
//!
//! It decides nothing.

use super::addresses::Addresses;
use super::gate::{Fate, Spoken};
use crate::istio::Object;
use crate::istio::service_entry::Resolution;
use crate::registry::Registry;
use crate::registry::l4::has_tls;
use crate::registry::routes::has_http;
use crate::registry::services::{Class, Entry, Service};
use crate::registry::view::View;
use crate::routing::{Cluster, Target};
use crate::traffic::{AbortWith, HttpAction, RetryPolicy, RoutePolicy};

/// The verdict on a flow that passes. `to` names what was dialled.
pub(super) fn passes(fate: &Fate, to: &str, spoken: &Spoken<'_>, by: Option<&str>) -> String {
    match fate {
        Fate::Straight => format!("straight to {to}"),
        Fate::Query => "to the agent's DNS server instead (dns.intercept: auto), which judges each query: explain --query NAME".to_owned(),
        Fate::Relayed(c) if c.original_dst.is_some() => format!("relayed to {to}"),
        Fate::Relayed(c) => format!("relayed to {}", target(c)),
        Fate::Tls(c) => format!("{} goes to {}", request(spoken), target(c)),
        Fate::Request(act) => {
            let what = match &act.action {
                HttpAction::Forward(to) => {
                    format!("goes to {}", target(&to.cluster))
                }
                HttpAction::Redirect(redirect) => {
                    format!("is answered with a redirect ({})", redirect.status)
                }
                HttpAction::Direct(response) => format!("is answered with {}", response.status),
            };
            let by = by.map_or_else(String::new, |rule| format!(" by {rule}"));
            let copies = copies(&act.action);
            format!(
                "{} {what}{by}{}{copies}",
                request(spoken),
                settings(&act.policy)
            )
        }
        Fate::DeniedByKernel(_) | Fate::DeniedByProxy(..) | Fate::NoEndpoint(..) => String::new(),
    }
}

/// Who gets copies of the request, each after a comma.
fn copies(action: &HttpAction<Target>) -> String {
    let mirrors = action.destinations().and_then(|to| to.mirrors.as_deref());
    let copies = mirrors.into_iter().flatten().map(|mirror| {
        let (to, share) = (target(&mirror.cluster), mirror.share);
        let denied = mirror.denial();
        let denied = denied.map_or_else(String::new, |why| format!(" (denied: {why})"));
        format!(", {share} of requests copied to {to}{denied}")
    });
    copies.collect()
}

/// The settings of a route that its rule changes, each after a comma.
fn settings(policy: &RoutePolicy) -> String {
    let timeout = policy.timeout.map(|time| format!(", timeout {time:?}"));
    let retries = Some(&policy.retries).filter(|retries| **retries != RetryPolicy::default());
    let each = retries.and_then(|retries| Some(format!(", {:?} each", retries.per_try_timeout?)));
    let retries =
        retries.map(|retries| format!(", {} retries on {}", retries.attempts, retries.on));
    let delay = policy.fault.delay;
    let delay = delay.map(|(part, time)| format!(", {part} of requests delayed by {time:?}"));
    let abort = policy.fault.abort.map(|(part, with)| {
        let with = match with {
            AbortWith::Http(status) => format!("{status}"),
            AbortWith::Grpc(status) => format!("gRPC status {status}"),
        };
        format!(", {part} of requests aborted with {with}")
    });
    [timeout, retries, each, delay, abort]
        .into_iter()
        .flatten()
        .collect()
}

/// A destination, and how connections to it are made.
fn target(cluster: &Cluster) -> String {
    let tls = match &cluster.policy.tls {
        Some(tls) if tls.certificate.is_some() => " over TLS with a client certificate",
        Some(_) => " over TLS",
        None => "",
    };
    let by_name = match cluster.dynamic {
        Some(_) => " (the addresses of the name that is asked for)",
        None => "",
    };
    let tunnel = cluster.policy.tunnel.as_ref().map(|tunnel| {
        let method = if tunnel.post { "POST" } else { "CONNECT" };
        format!(" (bytes are tunnelled to {} by {method})", tunnel.target)
    });
    let tunnel = tunnel.unwrap_or_default();
    let header = match cluster.policy.proxy_protocol {
        Some(_) => " with a PROXY protocol header",
        None => "",
    };
    let (host, port) = (&cluster.id.host, cluster.id.port);
    format!("{host}:{port}{by_name}{tls}{header}{tunnel}")
}

/// Who denies a flow, why, and what the client sees; empty for one that passes.
pub(super) fn denial(fate: &Fate) -> String {
    let seen = |status: &Option<u16>| match status {
        Some(status) => format!("answers {status}"),
        None => "closes the connection".to_owned(),
    };
    match fate {
        Fate::DeniedByKernel(reason) => {
            format!("the kernel denies it: reason=\"{}\"", reason.word())
        }
        Fate::DeniedByProxy(reason, status) => {
            format!("the proxy {}: reason=\"{reason}\"", seen(status))
        }
        Fate::NoEndpoint(_, status) => {
            format!("the proxy {}: no healthy upstream (flag UH)", seen(status))
        }
        Fate::Straight | Fate::Query | Fate::Relayed(_) | Fate::Tls(_) | Fate::Request(..) => {
            String::new()
        }
    }
}

/// What the flow asks for, in the words of a log line.
pub(super) fn request(spoken: &Spoken<'_>) -> String {
    match spoken {
        Spoken::Http(head) => format!("{} {}", head.method, head.path),
        Spoken::Http2(head) => format!("{} {} over HTTP/2", head.method, head.path),
        Spoken::Tls(Some(name)) => format!("TLS with the server name {name}"),
        Spoken::Tls(None) => "TLS without a server name".to_owned(),
        Spoken::Bytes => "a connection".to_owned(),
    }
}

/// Kind, name and place of the entry that lists a port; without a port, of the first entry.
pub(super) fn rule_of(service: &Service, port: Option<u16>) -> String {
    let first = |lists: &dyn Fn(&Entry) -> bool| service.entries.iter().find(|e| lists(e));
    let entry = match port {
        Some(port) => first(&|e| e.port(port).is_some())
            .or_else(|| first(&|e| e.unspelt.iter().any(|p| p.number == port))),
        None => service.entries.first(),
    };
    entry.map_or_else(String::new, |e| placed(&e.object))
}

/// Kind, name and place of an object.
pub(super) fn placed(object: &Object) -> String {
    format!("{object} ({})", object.place())
}

/// The `VirtualService` with http routes for a port of a service: its routes decide about requests.
pub(super) fn http_rule(
    registry: &Registry,
    view: &View,
    (service, port): (&Service, u16),
) -> Option<String> {
    let mut rules = registry.rules_for(&service.host, &view.scope);
    let rule = rules.find(|vs| has_http(vs, port, registry, &view.scope));
    rule.map(|vs| placed(&vs.object))
}

/// The first `VirtualService` with tls routes for a port of a service: for this server name, if one is given.
pub(super) fn tls_rule(
    registry: &Registry,
    view: &View,
    (service, port): (&Service, u16),
    name: Option<&str>,
) -> Option<String> {
    let mut rules = registry.rules_for(&service.host, &view.scope);
    let rule = rules.find(|vs| has_tls(vs, port, &view.scope, name));
    rule.map(|vs| placed(&vs.object))
}

/// Where a service is reached.
///
/// `private`: answers may contain addresses that are not public.
pub(super) fn reached(service: &Service, addresses: &Addresses, private: bool) -> String {
    let listed = service
        .entries
        .iter()
        .any(|e| !e.addresses.is_empty() || e.endpoints.is_some());
    match (service.resolution(), addresses) {
        (Resolution::None, _) if listed => "at the addresses of spec.addresses only".to_owned(),
        (Resolution::None, _) => {
            "at any address: resolution is NONE and spec.addresses is empty".to_owned()
        }
        (_, Addresses::Allocated(all)) => {
            let all: Vec<_> = all.iter().map(ToString::to_string).collect();
            format!(
                "at the addresses that the agent allocated to it, {}, because another host lists the same TCP port",
                all.join(" and ")
            )
        }
        (_, Addresses::Listed(_)) => "at the addresses of its rule only".to_owned(),
        (..) => {
            let public = if private {
                ""
            } else {
                ", public ones only (allowPrivateAnswers)"
            };
            format!(
                "at the addresses that DNS gives for {}{public}",
                service.host
            )
        }
    }
}

/// What a port is listed for.
pub(super) fn speaks(service: &Service, class: Class, port: u16) -> &'static str {
    match class {
        Class::Http if service.is_http2(port) => "HTTP/2",
        Class::Http => "HTTP",
        Class::Tls => "TLS",
        Class::Tcp => "TCP",
        Class::Udp => "UDP",
        Class::Sniffed => "any protocol",
    }
}
