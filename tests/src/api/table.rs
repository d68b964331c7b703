//! Objects as rows of a table, as kube-apiserver makes them for `kubectl get` (`Accept: application/json;as=Table`).
//!
//! Owns the columns of nodes (`printNode` of kube-apiserver). Other kinds are sent as objects.

use super::store::Resource;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

const NONE: &str = "<none>";

/// Whether a kind has a table here.
pub(super) fn has(resource: &Resource) -> bool {
    resource.plural == "nodes"
}

/// A list. `metadata` is that of the list.
pub(super) fn list(metadata: &Value, objects: &[Value]) -> Value {
    let names = [
        "Name",
        "Status",
        "Roles",
        "Age",
        "Version",
        "Internal-IP",
        "External-IP",
        "OS-Image",
        "Kernel-Version",
        "Container-Runtime",
    ];
    let columns = names.map(|name| json!({"name": name, "type": "string", "format": "", "description": "", "priority": 0}));
    table(metadata, &json!(columns), objects)
}

/// The object of an event. Only the first event of a watch has columns on a real server; none has them here.
pub(super) fn event(object: &Value) -> Value {
    let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    table(&metadata, &Value::Null, std::slice::from_ref(object))
}

fn table(metadata: &Value, columns: &Value, objects: &[Value]) -> Value {
    let rows: Vec<Value> = objects.iter().map(row).collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns,
        "rows": rows,
    })
}

/// With `includeObject=None`.
fn row(node: &Value) -> Value {
    /// An age differs in each answer.
    static AGE: AtomicU64 = AtomicU64::new(1);
    let each = |of: &str| node["status"][of].as_array().cloned().unwrap_or_default();
    let ready = each("conditions")
        .into_iter()
        .find(|condition| condition["type"] == "Ready");
    let state = match ready {
        Some(ready) if ready["status"] == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let address = |of: &str| {
        let found = each("addresses")
            .into_iter()
            .find(|address| address["type"] == of);
        found.map_or(json!(NONE), |address| address["address"].clone())
    };
    let age = format!("{}s", AGE.fetch_add(1, Ordering::Relaxed));
    json!({
        "cells": [
            node["metadata"]["name"], state, NONE, age, "v1.36.2", address("InternalIP"), address("ExternalIP"),
            "Debian GNU/Linux 12 (bookworm)", "6.1.0-30-amd64", "containerd://2.1.4",
        ],
        "object": null,
    })
}
