//! Routes from Istio's own YAML, made as the agent makes them.

use egress_core::istio::{Severity, decode, validate};
use egress_core::policy::state::{Settings, State};
use egress_core::routing::RouteTable;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// `a.example` with an origin at each of its ports, and the rules that a case adds.
pub fn rules(origin: SocketAddr, port: &str, more: &str) -> RouteTable {
    let (ip, at) = (origin.ip(), origin.port());
    let text = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: a}}\nspec:\n  \
         hosts: [a.example]\n  resolution: STATIC\n  addresses: [192.0.2.1]\n  ports: [{{number: 80, name: p, {port}}}]\n  \
         endpoints: [{{address: {ip}, ports: {{p: {at}}}}}]\n---\n{more}"
    );
    routes(&text, more)
}

/// The routes of documents.
pub fn routes(text: &str, more: &str) -> RouteTable {
    let decoded = decode("rules.yaml", text);
    assert!(!decoded.is_broken(), "{decoded:?}");
    let errors = decoded.objects.iter().flat_map(validate);
    let errors: Vec<_> = errors.filter(|m| m.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{more}: {errors:?}");
    let objects: Vec<_> = decoded.objects.into_iter().map(Arc::new).collect();
    let mut state = State::new(Settings::default());
    state.handle_rules(Instant::now(), &objects);
    let _ = state.poll_ops();
    RouteTable::clone(&state.routes())
}

pub fn object(kind: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: b}}\nspec: {spec}\n"
    )
}

pub fn rule(policy: &str) -> String {
    object("DestinationRule", &format!("{{host: a.example, {policy}}}"))
}

pub fn route(kind: &str, fields: &str) -> String {
    let to = "route: [{destination: {host: a.example}}]";
    object(
        "VirtualService",
        &format!("{{hosts: [a.example], {kind}: [{{{to}, {fields}}}]}}"),
    )
}
