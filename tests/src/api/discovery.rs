//! Which kinds the server has: the documents that clients read before they ask for objects.

use super::store::{Resource, Store};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The document of a path; `None` if it has none.
pub(super) fn document(store: &Store, path: &str) -> Option<Value> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts[..] {
        ["version"] => Some(json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.2", "platform": "linux/amd64",
        })),
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"]})),
        ["apis"] => {
            let groups: Vec<Value> = groups(store).iter().map(|(n, v)| group(n, v)).collect();
            Some(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}))
        }
        ["api", "v1"] => resources(store, "", "v1"),
        ["apis", name] => Some(group(name, groups(store).get(name)?)),
        ["apis", group, version] => resources(store, group, version),
        _ => None,
    }
}

fn groups(store: &Store) -> BTreeMap<&str, &Vec<String>> {
    let kinds = store.kinds.values().map(|stored| &stored.resource);
    let named = kinds.filter(|resource| !resource.group.is_empty());
    named
        .map(|resource| (&*resource.group, &resource.versions))
        .collect()
}

fn group(name: &str, versions: &[String]) -> Value {
    let version = |v: &String| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": name, "versions": versions,
        "preferredVersion": versions.first(),
    })
}

fn resources(store: &Store, group: &str, version: &str) -> Option<Value> {
    let kinds = store.kinds.values().map(|stored| &stored.resource);
    let here = kinds.filter(|r| r.group == group && r.versions.iter().any(|v| v == version));
    let one = |r: &Resource| {
        json!({
            "name": r.plural, "singularName": r.kind.to_lowercase(), "namespaced": r.namespaced, "kind": r.kind,
            "verbs": ["create", "delete", "get", "list", "patch", "update", "watch"],
        })
    };
    let all: Vec<Value> = here.map(one).collect();
    let api_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    (!all.is_empty()).then(|| {
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": all})
    })
}
