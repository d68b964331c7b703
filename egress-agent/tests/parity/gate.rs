//! The gate's side: rules as a user writes them, read by the decoder, planned by the state machine, carried out by the
//! proxy on a socket.

use crate::case::{Case, Endpoint};
use crate::support::{Bed, destination};
use egress_agent::proxy::Limits;
use egress_core::istio::{Severity, decode, validate};
use egress_core::policy::state::{Settings, State};
use egress_core::routing::{PortRoutes, RouteTable};
use serde_yaml::{Mapping, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// The address that each case's client dials: that of `a.example`.
pub const DIALLED: &str = "192.0.2.1";

/// A proxy with the rules of a case, or what is wrong about them.
pub async fn start(
    case: &Case,
    origins: &BTreeMap<String, Vec<SocketAddr>>,
) -> Result<Bed, String> {
    let routes = routes(case, origins)?;
    let from = destination(&format!("{DIALLED}:80"));
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    bed.put(routes);
    Ok(bed)
}

fn routes(case: &Case, origins: &BTreeMap<String, Vec<SocketAddr>>) -> Result<RouteTable, String> {
    let text = rules(case, origins);
    let decoded = decode("rules.yaml", &text);
    let errors: Vec<_> = decoded
        .objects
        .iter()
        .flat_map(validate)
        .filter(|message| message.severity == Severity::Error)
        .collect();
    if decoded.is_broken() || !errors.is_empty() {
        let told: Vec<_> = decoded
            .objects
            .iter()
            .flat_map(|one| &one.messages)
            .collect();
        return Err(format!("  {}\n    {told:?} {errors:?}\n", case.name));
    }
    let objects: Vec<_> = decoded.objects.into_iter().map(Arc::new).collect();
    let mut state = State::new(Settings::default());
    state.handle_rules(Instant::now(), &objects);
    let _ = state.poll_ops();
    Ok(RouteTable::clone(&state.routes()))
}

/// The documents of a case.
fn rules(case: &Case, origins: &BTreeMap<String, Vec<SocketAddr>>) -> String {
    let mut documents = Vec::new();
    for (number, (name, endpoints)) in origins.iter().enumerate() {
        let endpoints: Vec<_> = endpoints.iter().zip(&case.origins[name]).collect();
        documents.push(entry(case, number, name, &endpoints));
    }
    if !case.http.is_null() {
        let mut spec = mapping("hosts: [a.example]");
        spec.insert("http".into(), case.http.clone());
        documents.push(object("VirtualService", "routes", spec));
    }
    if let Value::Mapping(rule) = &case.rule {
        let mut spec = mapping("host: a.example");
        spec.extend(rule.clone());
        documents.push(object("DestinationRule", "rule", spec));
    }
    documents.join("---\n")
}

fn entry(case: &Case, number: usize, name: &str, endpoints: &[(&SocketAddr, &Endpoint)]) -> String {
    let mut port = mapping("{number: 80, name: http, protocol: HTTP}");
    let mut spec = mapping("resolution: STATIC");
    spec.insert(
        "hosts".into(),
        vec![Value::from(format!("{name}.example"))].into(),
    );
    spec.insert(
        "addresses".into(),
        vec![Value::from(format!("192.0.2.{}", number + 1))].into(),
    );
    let listed: Vec<Value> = endpoints
        .iter()
        .map(|(at, what)| endpoint(at, what))
        .collect();
    if !listed.is_empty() {
        spec.insert("endpoints".into(), listed.into());
    }
    if name == "a" {
        port.extend(case.port.clone());
        spec.extend(case.entry.clone());
    }
    spec.insert("ports".into(), vec![Value::from(port)].into());
    object("ServiceEntry", name, spec)
}

fn endpoint(at: &SocketAddr, what: &Endpoint) -> Value {
    let mut endpoint = mapping(&format!(
        "{{address: {}, ports: {{http: {}}}}}",
        at.ip(),
        at.port()
    ));
    if let Endpoint::Labelled { labels, .. } = what {
        endpoint.insert("labels".into(), labels.clone().into());
    }
    endpoint.into()
}

fn object(kind: &str, name: &str, spec: Mapping) -> String {
    let mut object = mapping(&format!(
        "{{apiVersion: networking.istio.io/v1, kind: {kind}, metadata: {{name: {name}}}}}"
    ));
    object.insert("spec".into(), spec.into());
    // JSON is YAML in which no word is taken for a boolean.
    serde_json::to_string(&object).unwrap() + "\n"
}

fn mapping(text: &str) -> Mapping {
    serde_yaml::from_str(text).unwrap()
}
