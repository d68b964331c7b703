//! Stand-ins for invalid objects that narrow or protect: their hosts or workloads are denied
//! everything.
//!
//! Without the stand-in, leaving out a `VirtualService` would open every path of its hosts, leaving
//! out a `DestinationRule` would send in clear text what it encrypts, and leaving out a `Sidecar`
//! would show a workload every service. A `ServiceEntry` and a `WorkloadEntry` only add, so they
//! need none.

use super::decode::node::{Node, Value, snake_case};
use super::decode::{Object, Spec};
use super::destination_rule::DestinationRule;
use super::fields::{MatchLabelsSelector, WorkloadSelector};
use super::message::{Message, Severity};
use super::sidecar::{IstioEgressListener, OutboundTrafficPolicy, Sidecar};
use super::validate::are_valid_clients;
use super::virtual_service::VirtualService;
use std::sync::Arc;

/// What is in force instead of an invalid object; `None` where leaving it out denies. Hosts, selectors
/// and `exportTo` are taken from what could be read of it.
pub fn stand_in(object: &Object) -> Option<Object> {
    let spec = object.spec.as_ref().or(object.draft.as_ref())?;
    let raw = object.root.get("spec");
    let spec = match spec {
        Spec::VirtualService(read) => {
            // A delegate without hosts stands in for its routes.
            let hosts = texts(&read.hosts, raw, "hosts");
            let gateways = texts(&read.gateways, raw, "gateways");
            let (export_to, _) = clients(object, &read.export_to, None);
            Spec::VirtualService(VirtualService {
                hosts,
                gateways: for_workloads(gateways, object),
                export_to,
                ..VirtualService::default()
            })
        }
        Spec::DestinationRule(read) => {
            let host = Vec::from_iter((!read.host.is_empty()).then(|| read.host.clone()));
            let selector = read.workload_selector.as_ref();
            let (export_to, workload_selector) = clients(object, &read.export_to, selector);
            Spec::DestinationRule(DestinationRule {
                host: texts(&host, raw, "host").into_iter().next()?,
                export_to,
                workload_selector,
                ..DestinationRule::default()
            })
        }
        Spec::Sidecar(read) => {
            // A selector that cannot be read may be for any workload of the namespace.
            let labels = raw.and_then(|r| r.get("workloadSelector"));
            let labels = labels.and_then(|s| s.get("labels")?.string_map());
            let selector = read.workload_selector.clone();
            let selector = selector.or(labels.map(|labels| WorkloadSelector { labels }));
            Spec::Sidecar(Sidecar {
                workload_selector: selector,
                egress: vec![IstioEgressListener {
                    hosts: vec!["~/*".to_owned()],
                    ..IstioEgressListener::default()
                }],
                // REGISTRY_ONLY.
                outbound_traffic_policy: Some(OutboundTrafficPolicy::default()),
                ..Sidecar::default()
            })
        }
        Spec::ServiceEntry(_) | Spec::WorkloadEntry(_) => return None,
    };
    let (kind, meta, place) = (object.kind, &object.meta, object.place());
    let why = format!(
        "{kind} {}/{} ({place}) is invalid, so what it is about serves nothing until it is mended",
        meta.namespace, meta.name
    );
    Some(Object {
        spec: Some(spec),
        denied: Some(why.into()),
        draft: None,
        misspelt: Vec::new(),
        messages: Vec::new(),
        root: Node::default(),
        text: Arc::default(),
        ..object.clone()
    })
}

/// The clients that an object is for, by its `exportTo` and its selector as they were decoded. If that is in doubt, it may
/// be for anyone.
fn clients(
    object: &Object,
    export_to: &[String],
    selector: Option<&MatchLabelsSelector>,
) -> (Vec<String>, Option<MatchLabelsSelector>) {
    let raw = object.root.get("spec");
    let given = field(raw, "workloadSelector");
    let labels = field(given, "matchLabels").and_then(Node::string_map);
    let read_whole = is_whole(export_to, raw)
        && given.is_none_or(|_| labels.as_ref() == selector.map(|s| &s.match_labels));
    // Other errors are about the namespace, which a dot means, or about keys that are set twice.
    let in_spec = |m: &Message| m.field == "spec" || m.field.starts_with("spec.");
    let mut errors = object
        .messages
        .iter()
        .filter(|m| m.severity == Severity::Error);
    if read_whole && errors.all(in_spec) && are_valid_clients(object, export_to, selector) {
        (export_to.to_vec(), selector.cloned())
    } else {
        (Vec::new(), None)
    }
}

/// Whether an `exportTo` was decoded with all of its entries.
fn is_whole(read: &[String], raw: Option<&Node>) -> bool {
    match field(raw, "exportTo").map(|node| &node.value) {
        Some(Value::List(items)) => {
            let written = items.iter().map(Node::text);
            written.eq(read.iter().map(|entry| Some(entry.as_str())))
        }
        Some(_) => false,
        None => read.is_empty(),
    }
}

/// A field under either of its two names; `None` if it is given under both.
fn field<'a>(of: Option<&'a Node>, camel: &str) -> Option<&'a Node> {
    let of = of?;
    match (of.get(camel), of.get(&snake_case(camel))) {
        (one, None) | (None, one) => one,
        (Some(_), Some(_)) => None,
    }
}

/// Texts of a field: as they were decoded, else what stands under it or under a name like it.
fn texts(read: &[String], raw: Option<&Node>, field: &str) -> Vec<String> {
    if !read.is_empty() {
        return read.to_vec();
    }
    let Some(Value::Map(entries)) = raw.map(|r| &r.value) else {
        return Vec::new();
    };
    let known = [
        "hosts", "host", "gateways", "http", "tls", "tcp", "exportTo",
    ];
    let mut found = Vec::new();
    for entry in entries {
        let own = entry.key == field;
        let meant = super::decode::nearest(&entry.key, std::iter::once(field)).is_some();
        if own || (meant && !known.contains(&entry.key.as_str())) {
            match &entry.value.value {
                Value::String(text) => found.push(text.clone()),
                Value::List(items) => {
                    found.extend(items.iter().filter_map(Node::text).map(str::to_owned));
                }
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::Map(_) => {}
            }
        }
    }
    found
}

/// The gateways of a stand-in: those of an object that is for gateways only, otherwise none, which
/// is every workload.
fn for_workloads(gateways: Vec<String>, object: &Object) -> Vec<String> {
    let only = !gateways.is_empty() && !object.text.contains("mesh");
    if only { gateways } else { Vec::new() }
}
