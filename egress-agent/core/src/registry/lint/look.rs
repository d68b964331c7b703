//! One look at a part of the rules: a service, a `VirtualService`, a `DestinationRule` or a `Sidecar`.
//!
//! Owns the list of findings. Judges the rules as a whole, not what one workload sees of them.

use crate::istio::hosts;
use crate::istio::message::{Path, Step};
use crate::istio::service_entry::Resolution;
use crate::istio::validate::ADDRESS_HINT;
use crate::istio::{Message, Object, Severity, Spec};
use crate::registry::routes::has_http;
use crate::registry::scope::Scope;
use crate::registry::services::{Class, Entry, Port, Service};
use crate::registry::virtual_service::serves_mesh;
use crate::registry::{Registry, VirtualService};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// A finding, with its object.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it is about.
    pub object: Arc<Object>,
    /// A warning or a note.
    pub message: Message,
    /// A port is open to any address.
    pub opens: bool,
}

/// One look at a part of the rules.
pub(super) struct Lint<'a> {
    pub(super) registry: &'a Registry,
    pub(super) found: Vec<Found>,
}

/// The way from `spec` to a field: names, each with the number of an element if the field is a list.
pub(super) type Fields = [(&'static str, Option<usize>)];

fn path(fields: &Fields) -> Path {
    let below = fields
        .iter()
        .flat_map(|(name, index)| std::iter::once(Step::Field(name)).chain(index.map(Step::Index)));
    Path(std::iter::once(Step::Field("spec")).chain(below).collect())
}

impl<'a> Lint<'a> {
    pub(super) fn new(registry: &'a Registry) -> Self {
        Self {
            registry,
            found: Vec::new(),
        }
    }
}

impl Lint<'_> {
    fn say(&mut self, object: &Arc<Object>, path: &Path, severity: Severity, text: String) {
        self.add(object, path, severity, text, false);
    }

    fn add(
        &mut self,
        object: &Arc<Object>,
        path: &Path,
        severity: Severity,
        text: String,
        opens: bool,
    ) {
        self.found.push(Found {
            object: Arc::clone(object),
            opens,
            message: object.message(severity, path, text),
        });
    }

    pub(super) fn warn(&mut self, object: &Arc<Object>, fields: &Fields, text: String) {
        self.say(object, &path(fields), Severity::Warning, text);
    }

    /// Checks an object that is not checked as a service.
    pub(super) fn object(&mut self, object: &Arc<Object>) {
        match &object.spec {
            Some(Spec::VirtualService(spec)) if !serves_mesh(spec) => {
                let text =
                    "it does nothing here: its gateways are without mesh, which is every workload";
                let at = path(&[("gateways", None)]);
                self.say(object, &at, Severity::Note, text.to_owned());
            }
            Some(Spec::VirtualService(spec))
                if !spec.hosts.is_empty() && object.denied.is_none() =>
            {
                let object = Arc::clone(object);
                self.rule(&VirtualService { object });
            }
            Some(Spec::DestinationRule(spec)) if object.denied.is_none() => {
                self.destination_rule(object, spec);
            }
            Some(Spec::Sidecar(spec)) if object.denied.is_none() => {
                self.sidecar(object, spec);
                self.egress_proxy(object, spec);
            }
            _ => {}
        }
    }

    /// The service of a host.
    pub(super) fn service_of(&self, host: &str) -> Option<Service> {
        let (host, entries) = self.registry.entries.get_key_value(host)?;
        Some(Service::new(Arc::clone(host), entries.clone()))
    }

    pub(super) fn service(&mut self, service: &Service) {
        for entry in &service.left_out {
            let first = service.entries.first().map(|e| e.object.to_string());
            let text = format!(
                "not in force: {} lists {} too, is older and cannot be merged with this one",
                first.unwrap_or_default(),
                service.host
            );
            self.warn(&entry.object, &[("hosts", None)], text);
        }
        let ports = service.ports();
        for entry in &service.entries {
            self.public_suffix(service, entry);
            let spec = || entry.entry().into_iter().flat_map(|s| &s.ports);
            let index = |n: u16| spec().position(|p| p.number == u32::from(n));
            for port in &entry.ports {
                let at = [("ports", index(port.number))];
                let held = ports.get(&port.number).map_or(port.class, |p| p.class);
                let holder = service
                    .entries
                    .iter()
                    .find(|e| e.port(port.number).is_some());
                let older = holder.is_some_and(|e| !Arc::ptr_eq(&e.object, &entry.object));
                if older && held != port.class {
                    let text = format!(
                        "port {} of {} has another protocol in an older entry, which holds",
                        port.number, service.host
                    );
                    self.warn(&entry.object, &at, text);
                }
                if let Some(usual) = match (port.number, port.class) {
                    (443, Class::Http) => Some("HTTPS or TLS"),
                    (80, Class::Tls) => Some("HTTP"),
                    _ => None,
                } {
                    let text = format!(
                        "port {} usually speaks {usual}: what does not speak the port's protocol is denied",
                        port.number
                    );
                    self.warn(&entry.object, &at, text);
                }
                if entry.resolution == Resolution::None && entry.addresses.is_empty() {
                    self.any_address(entry, &at, port);
                }
            }
            for Port {
                number: port,
                class,
                ..
            } in &entry.unspelt
            {
                let learned = if class.needs_name() {
                    ""
                } else {
                    " (with dns.intercept: auto it serves the addresses that workloads get for names of the entry)"
                };
                let text = format!(
                    "port {port} serves nothing: without resolution and addresses it would be open to any \
                     address; write resolution: NONE if that is meant{learned}"
                );
                self.warn(&entry.object, &[("ports", index(*port))], text);
            }
        }
    }

    /// A port of an entry with resolution NONE and no addresses.
    fn any_address(&mut self, entry: &Arc<Entry>, at: &Fields, port: &Port) {
        let number = port.number;
        let text = match port.class {
            Class::Tcp | Class::Udp | Class::Sniffed => format!(
                "with resolution NONE and no addresses this opens port {number} to any address"
            ),
            Class::Http => format!(
                "with resolution NONE and no addresses any address gets port {number} if the client sends \
                 the right Host"
            ),
            Class::Tls => format!(
                "with resolution NONE and no addresses any address gets port {number} if the client sends \
                 the right server name"
            ),
        };
        self.add(&entry.object, &path(at), Severity::Warning, text, true);
    }

    fn rule(&mut self, rule: &VirtualService) {
        let (object, spec) = (&rule.object, rule.spec());
        for (index, host) in spec.hosts.iter().enumerate() {
            let at = [("hosts", Some(index))];
            let host = hosts::full_name(host, &object.meta.namespace, &self.registry.domain);
            let covered = self.covered(&host);
            if covered.is_empty() {
                let is_address = host.parse::<IpAddr>().is_ok();
                let hint = if is_address { ADDRESS_HINT } else { "" };
                let text =
                    format!("no ServiceEntry lists {host}: this rule has no effect for it{hint}");
                self.warn(object, &at, text);
            }
            if let Some(first) = self.hidden_by(rule, &host, &covered) {
                let text = format!(
                    "its http routes are not in force for {host}: those of {first} are, and rules for \
                     one host are not merged"
                );
                self.warn(object, &at, text);
            }
            self.unused_sections(rule, &covered);
        }
        self.destinations(rule);
        self.delegates(rule);
        self.dead_routes(rule);
    }

    /// The rule that comes before this one for a host, if such rules take each port for which this one has http routes,
    /// whoever the client is.
    fn hidden_by(
        &self,
        rule: &VirtualService,
        host: &str,
        covered: &[Service],
    ) -> Option<Arc<Object>> {
        let (anyone, nobody) = (Scope::everything(), Scope::default());
        let before = self.registry.rules_for(host, &anyone);
        let before = before.take_while(|vs| !Arc::ptr_eq(&vs.object, &rule.object));
        let before: Vec<_> = before.filter(|vs| !vs.spec().http.is_empty()).collect();
        let ports = covered.iter().flat_map(|service| service.ports());
        let ports = ports.filter(|(_, port)| port.class.is_http());
        let ports: BTreeSet<u16> = ports.map(|(number, _)| number).collect();
        let mut first = None;
        for port in ports {
            if !has_http(rule, port, self.registry, &anyone) {
                continue;
            }
            let mut before = before.iter();
            // A route for certain clients leaves the others to the next rule.
            let hides = before.find(|vs| has_http(vs, port, self.registry, &nobody))?;
            first = first.or(Some(Arc::clone(&hides.object)));
        }
        first
    }

    /// Services that a rule's host covers.
    pub(super) fn covered(&self, host: &str) -> Vec<Service> {
        if !hosts::is_wildcard(host) {
            return self.service_of(host).into_iter().collect();
        }
        let all = self.registry.entries.iter();
        all.filter(|(h, _)| hosts::covers(host, h))
            .map(|(h, entries)| Service::new(Arc::clone(h), entries.clone()))
            .collect()
    }

    /// Routes for a protocol that no port of the hosts has.
    fn unused_sections(&mut self, rule: &VirtualService, covered: &[Service]) {
        if covered.is_empty() {
            return;
        }
        let has = |wanted: fn(Class) -> bool| {
            let ports = covered.iter().flat_map(|s| s.ports().into_values());
            ports.into_iter().any(|p| wanted(p.class))
        };
        let spec = rule.spec();
        if !spec.http.is_empty() && !has(Class::is_http) {
            let timeout = spec.http.iter().position(|r| r.timeout.is_some());
            let (at, what) = match timeout {
                Some(index) => (
                    vec![("http", Some(index)), ("timeout", None)],
                    "the timeout",
                ),
                None => (vec![("http", None)], "http routes"),
            };
            let text = format!(
                "{what} can have no effect: no port of the host speaks HTTP that can be read (TLS \
                 passes unopened)"
            );
            self.warn(&rule.object, &at, text);
        }
        if !spec.tls.is_empty() && !has(|c| c == Class::Tls) {
            let text = "tls routes can have no effect: no port of the host is HTTPS or TLS";
            self.warn(&rule.object, &[("tls", None)], text.to_owned());
        }
        if !spec.tcp.is_empty() && !has(|c| matches!(c, Class::Tcp | Class::Sniffed)) {
            let text = "tcp routes can have no effect: no port of the host is TCP";
            self.warn(&rule.object, &[("tcp", None)], text.to_owned());
        }
    }

    /// http routes after one that takes every request.
    fn dead_routes(&mut self, rule: &VirtualService) {
        let http = &rule.spec().http;
        let takes_all = |m: &crate::istio::virtual_service::HttpMatchRequest| {
            use crate::istio::fields::StringMatch;
            let any_path = matches!(&m.uri, Some(StringMatch::Prefix(p)) if p == "/");
            let mut bare = m.clone();
            bare.uri = bare.uri.filter(|_| !any_path);
            let anyone = m.port == 0 && m.gateways.is_empty() && m.source_labels.is_empty();
            anyone
                && m.source_namespace.is_empty()
                && crate::routing::HttpMatch::new(&bare).is_bare()
        };
        let first = http
            .iter()
            .position(|r| r.r#match.iter().any(takes_all) && r.delegate.is_none());
        for index in first.map_or(0..0, |at| at + 1..http.len()) {
            let text = format!(
                "this route can never match: http[{}] takes every request",
                first.unwrap_or_default()
            );
            self.warn(&rule.object, &[("http", Some(index))], text);
        }
    }
}
