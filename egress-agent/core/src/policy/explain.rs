//! Why a destination is let through or refused, for people: the verdict, the rule that gave it, or
//! the nearest one and the field in which it differs.
//!
//! Owns the words. Decides nothing: it asks what the gate would.

use super::hints::ports;
use super::state::State;
use super::tables::Transport;
use crate::http::authority::parse_authority;
use crate::istio::Object;
use crate::registry::hosts;
use crate::registry::lint::name;
use crate::registry::services::{Class, Service};
use crate::registry::view::View;
use crate::routing::{HttpDecision, RequestHead, TcpDecision, TlsDecision};
use http::HeaderMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use thiserror::Error;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// A host and port; the path of a URL, `/` without one.
    Name {
        /// In canonical form.
        host: String,
        /// Destination port.
        port: u16,
        /// Path and query.
        path: String,
    },
    /// An address and port.
    Address(SocketAddr),
}

/// What is no question.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QuestionError {
    /// No port, and no scheme that has one.
    #[error("no port: give HOST:PORT, IP:PORT or a URL")]
    NoPort,
    /// The host is no name or address.
    #[error("{0:?} is no host")]
    BadHost(String),
    /// Neither http nor https.
    #[error("scheme {0:?} is neither http nor https")]
    Scheme(String),
}

impl Question {
    /// Reads `HOST:PORT`, `IP:PORT`, `[IPV6]:PORT` or a URL.
    pub fn parse(text: &str) -> Result<Self, QuestionError> {
        let (rest, of_scheme) = match text.split_once("://") {
            Some(("http", rest)) => (rest, Some(80)),
            Some(("https", rest)) => (rest, Some(443)),
            Some((other, _)) => return Err(QuestionError::Scheme(other.to_owned())),
            None => (text, None),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let path = match path.split('#').next().unwrap_or_default() {
            "" => "/".to_owned(),
            query if query.starts_with('?') => format!("/{query}"),
            path => path.to_owned(),
        };
        if let Ok(address) = authority.parse::<SocketAddr>() {
            return Ok(Self::Address(address));
        }
        let bare = authority.trim_start_matches('[').trim_end_matches(']');
        if let (Ok(ip), Some(port)) = (bare.parse::<IpAddr>(), of_scheme) {
            return Ok(Self::Address(SocketAddr::new(ip, port)));
        }
        let port = authority.rsplit_once(':').and_then(|(_, p)| p.parse().ok());
        let port = port.or(of_scheme).ok_or(QuestionError::NoPort)?;
        let host = parse_authority(authority);
        let host = host.map_err(|_| QuestionError::BadHost(authority.to_owned()))?;
        Ok(Self::Name {
            host: host.as_str().to_owned(),
            port,
            path,
        })
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Whether the rules let a flow through.
    pub allowed: bool,
    /// The verdict and its reasons, a line each.
    pub lines: Vec<String>,
}

fn refused(why: String, hint: Option<String>) -> Explanation {
    let lines = std::iter::once(why).chain(hint).collect();
    Explanation {
        allowed: false,
        lines,
    }
}

impl State {
    /// Explains a flow under a policy, with the addresses that are known at the moment. A name is
    /// asked for by the protocol of its port, an address by TCP and UDP alike.
    pub fn explain(&mut self, policy: u32, question: &Question) -> Explanation {
        let mut explanation = match question {
            Question::Name { host, port, path } => self.explain_name(policy, host, *port, path),
            Question::Address(to) => self.explain_address(policy, *to),
        };
        if !explanation.allowed && self.policies.get(&policy).is_some_and(|p| p.audit) {
            let line =
                "the policy audits: it gets through all the same, and is logged as would_deny";
            explanation.lines.push(line.to_owned());
        }
        explanation
    }

    fn explain_name(&mut self, policy: u32, host: &str, port: u16, path: &str) -> Explanation {
        let routes = self.routes();
        let Some(state) = self.policies.get(&policy) else {
            return refused(format!("refused: there is no policy {policy}"), None);
        };
        let view = &state.view;
        let Some(service) = service_of(view, host, port) else {
            if state.allow_any {
                let line = "allowed: no rule lists it, and outboundTrafficPolicy is ALLOW_ANY";
                return Explanation {
                    allowed: true,
                    lines: vec![line.to_owned()],
                };
            }
            let why = format!("refused: no ServiceEntry lists {host} (field spec.hosts)");
            return refused(why, nearest_host(view, host, port));
        };
        let Some(class) = service.class(port) else {
            let rule = rule_of(service, None);
            let why =
                format!("refused: {rule} lists {host}, but not port {port} (field spec.ports)");
            return refused(why, Some(format!("it lists {}", ports(service))));
        };
        let rule = rule_of(service, Some(port));
        // An address that the service is known by, for the routes that look at it; else one of the
        // outside (RFC 5737).
        let any = SocketAddr::from(([192, 0, 2, 1], port));
        let dialled = door(service, port).map_or(any, |ip| SocketAddr::new(ip, port));
        let (allowed, how) = match class {
            Class::Udp => (true, "UDP straight to its addresses".to_owned()),
            Class::Tcp => match routes.tcp(policy, dialled, 0) {
                TcpDecision::Relay(c) if c.host != *service.host => {
                    (true, format!("relayed to {}:{}", c.host, c.port))
                }
                TcpDecision::Relay(_) | TcpDecision::RelayNonHttp(_) | TcpDecision::Unlisted => {
                    (true, "TCP to its addresses".to_owned())
                }
            },
            Class::Http | Class::Sniffed => {
                let head = RequestHead {
                    authority: host,
                    method: "GET",
                    path,
                    headers: &HeaderMap::new(),
                };
                let rule = virtual_service(&self.registry, view, service);
                match routes.http(policy, dialled, &head, 0) {
                    HttpDecision::Forward(cluster, route) => {
                        let timeout = route
                            .timeout
                            .map_or_else(String::new, |t| format!(", timeout {t:?}"));
                        let by = rule.map_or_else(String::new, |r| format!(" by {r}"));
                        (
                            true,
                            format!(
                                "GET {path} goes to {}:{}{by}{timeout}",
                                cluster.host, cluster.port
                            ),
                        )
                    }
                    HttpDecision::NoRoute => (
                        false,
                        format!(
                            "404: no route of {} takes GET {path}",
                            rule.unwrap_or_default()
                        ),
                    ),
                    HttpDecision::NoCluster(c) => (
                        false,
                        format!("503: {}:{} is not registered", c.host, c.port),
                    ),
                    HttpDecision::UnlistedHost => (
                        false,
                        "502: the Host is not listed at this address".to_owned(),
                    ),
                }
            }
            Class::Tls => match routes.tls(policy, dialled, Some(host), 0) {
                TlsDecision::Forward(c) => (
                    true,
                    format!("TLS with this server name goes to {}:{}", c.host, c.port),
                ),
                TlsDecision::UnlistedName => (
                    false,
                    "closed: no tls route takes this server name".to_owned(),
                ),
            },
        };
        let verdict = if allowed { "allowed" } else { "refused" };
        let mut lines = vec![format!("{verdict}: {how}"), format!("listed by {rule}")];
        lines.extend(allowed.then(|| addresses(service)));
        Explanation { allowed, lines }
    }

    fn explain_address(&mut self, policy: u32, to: SocketAddr) -> Explanation {
        let Some(state) = self.policies.get(&policy) else {
            return refused(format!("refused: there is no policy {policy}"), None);
        };
        let covers = |via: Transport| state.covering(to.ip(), to.port(), via);
        let mut lines = Vec::new();
        for (via, word) in [(Transport::Tcp, "TCP"), (Transport::Udp, "UDP")] {
            let by: Vec<_> = covers(via)
                .into_iter()
                .map(|s| rule_of(s, Some(to.port())))
                .collect();
            if !by.is_empty() {
                lines.push(format!("{word} is listed by {}", by.join(" and ")));
            }
        }
        let names = self.nearest(policy, to.ip(), to.port(), Transport::Tcp);
        let fixed = state.fixed(to);
        if lines.is_empty() && !fixed {
            let maybe: Vec<_> = state
                .by_name(to.port())
                .take(3)
                .map(|s| s.host.to_string())
                .collect();
            let hint = names.or_else(|| {
                let port = to.port();
                (!maybe.is_empty()).then(|| {
                    format!(
                        "port {port} is listed for {}, if DNS gives this address",
                        maybe.join(", ")
                    )
                })
            });
            if state.allow_any {
                lines.push("no rule lists it, and outboundTrafficPolicy is ALLOW_ANY".to_owned());
            } else {
                let why = format!(
                    "refused: no rule lists {} (fields spec.addresses, spec.endpoints)",
                    to.ip()
                );
                return refused(why, hint);
            }
        }
        if fixed {
            lines.push("it is a name server or in the agent's `internal` ranges".to_owned());
        }
        lines.insert(0, format!("allowed: {to}, as far as an address decides"));
        Explanation {
            allowed: true,
            lines,
        }
    }
}

/// The service that a host falls under, itself or the longest wildcard: of those with this port,
/// since each port has routes of its own; else of all.
fn service_of<'a>(view: &'a View, host: &str, port: u16) -> Option<&'a Arc<Service>> {
    let wildcards = (0..=host.len())
        .filter_map(|at| host.get(at..))
        .map(|s| format!("*{s}"));
    let all = std::iter::once(host.to_owned()).chain(wildcards);
    let mut all = all.filter_map(|h| view.services.get(h.as_str()));
    let first = all.next()?;
    let with_port = |s: &&Arc<Service>| s.class(port).is_some();
    let found = std::iter::once(first).chain(all).find(with_port);
    found.or(Some(first))
}

/// Kind, name and place of the entry that lists a port.
fn rule_of(service: &Service, port: Option<u16>) -> String {
    let mut entries = service.entries.iter();
    let entry = match port {
        Some(port) => entries.find(|e| e.port(port).is_some()),
        None => entries.next(),
    };
    entry.map_or_else(String::new, |e| placed(&e.object))
}

fn placed(object: &Object) -> String {
    format!("{} ({}:{})", name(object), object.source, object.line)
}

fn virtual_service(
    registry: &crate::registry::Registry,
    view: &View,
    service: &Service,
) -> Option<String> {
    let mut rules = registry.rules_for(&service.host, &view.scope);
    rules
        .find(|vs| !vs.spec().http.is_empty())
        .map(|vs| placed(&vs.object))
}

fn door(service: &Service, port: u16) -> Option<IpAddr> {
    let entry = service.entries.iter().find(|e| e.port(port).is_some())?;
    entry.addresses.first().map(ipnet::IpNet::addr)
}

fn addresses(service: &Service) -> String {
    use crate::istio::service_entry::Resolution;
    let listed = service
        .entries
        .iter()
        .any(|e| !e.addresses.is_empty() || e.endpoints.is_some());
    match service.resolution() {
        Resolution::None if listed => "at the addresses of spec.addresses only".to_owned(),
        Resolution::None => {
            "at any address: resolution is NONE and spec.addresses is empty".to_owned()
        }
        _ if listed => "at the addresses of its rule only".to_owned(),
        _ => format!("at the addresses that DNS gives for {}", service.host),
    }
}

/// The service whose host is most like one that none lists.
fn nearest_host(view: &View, host: &str, port: u16) -> Option<String> {
    let suffix = host.split_once('.').map(|(_, rest)| rest);
    let alike = |listed: &str| {
        let bare = listed.trim_start_matches('*').trim_start_matches('.');
        if bare == host {
            return Some(0);
        }
        let typo = distance(listed, host);
        let sibling = suffix.is_some_and(|s| s.contains('.') && bare.ends_with(s));
        (typo <= 2).then_some(1).or_else(|| sibling.then_some(2))
    };
    let found = view
        .services
        .values()
        .filter_map(|s| Some((alike(&s.host)?, s)));
    let (_, service) =
        found.min_by_key(|(rank, s)| (*rank, s.class(port).is_none(), Arc::clone(&s.host)))?;
    let apex = if hosts::is_wildcard(&service.host) {
        " (which is not the name itself)"
    } else {
        ""
    };
    Some(format!(
        "nearest: {} lists {}{apex}, {}",
        rule_of(service, None),
        service.host,
        ports(service)
    ))
}

/// Edits from one name to another, at most three.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return 3;
    }
    let b: Vec<u8> = b.bytes().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = corner + usize::from(x != *y);
            corner = row[j + 1];
            row[j + 1] = cost.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()].min(3)
}

#[cfg(test)]
#[path = "explain_tests.rs"]
mod tests;
