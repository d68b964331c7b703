//! An object of the Kubernetes API as a rule file: a path that people recognise, and a text that changes only if the
//! rule changes.
//!
//! Does not judge the object. It keeps what the decoder reads (`egress_core::istio::Meta` and `spec`).

use crate::sources::SourceFile;
use crate::sources::judge::judge;
use egress_core::istio::{Kind, place};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// The longest namespace or name (Kubernetes: a DNS subdomain).
const LONGEST_NAME: usize = 253;
/// Annotations of this domain and those below it have a meaning for a rule. Others change often and can be long
/// (`kubectl.kubernetes.io/last-applied-configuration`).
const DOMAIN: &str = "istio.io";

/// The name of a kind in paths of the API.
pub const fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::ServiceEntry => "serviceentries",
        Kind::VirtualService => "virtualservices",
        Kind::DestinationRule => "destinationrules",
        Kind::Sidecar => "sidecars",
        Kind::WorkloadEntry => "workloadentries",
    }
}

/// The path of all objects of a kind: `kubernetes:serviceentry`.
pub fn folder(kind: Kind) -> PathBuf {
    format!("{}{}", place::API, kind.as_str().to_ascii_lowercase()).into()
}

/// The path of an object: `kubernetes:serviceentry/shop/a`. `None` if no object can have this namespace or name.
pub fn path(kind: Kind, namespace: &str, name: &str) -> Option<PathBuf> {
    let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b"-.".contains(&c);
    let is_name = |text: &str| {
        let length = (1..=LONGEST_NAME).contains(&text.len());
        length && text.bytes().all(allowed) && !text.starts_with('.')
    };
    let named = is_name(namespace) && is_name(name);
    named.then(|| folder(kind).join(namespace).join(name))
}

/// `metadata` and `spec` of an object as the API server returned it, without what no rule means: JSON without its
/// first brace.
pub fn content(mut object: Value) -> String {
    let mut metadata = Map::new();
    if let Some(Value::Object(all)) = object.get_mut("metadata") {
        for key in [
            "name",
            "namespace",
            "labels",
            "creationTimestamp",
            "generation",
        ] {
            metadata.extend(all.remove_entry(key).filter(|(_, value)| !value.is_null()));
        }
        if let Some(Value::Object(mut annotations)) = all.remove("annotations") {
            annotations.retain(|key, _| is_istio(key));
            if !annotations.is_empty() {
                metadata.insert("annotations".to_owned(), Value::Object(annotations));
            }
        }
    }
    let mut kept = json!({ "metadata": metadata });
    if let Some(spec) = object.get_mut("spec") {
        kept["spec"] = spec.take();
    }
    kept.to_string().split_off(1)
}

/// An object as a file. `content` is that of [`content`].
pub fn file(kind: Kind, api_version: &str, path: PathBuf, content: &str) -> SourceFile {
    let version = Value::from(api_version);
    let text = format!("{{\"apiVersion\":{version},\"kind\":\"{kind}\",{content}");
    SourceFile::new(path, text)
}

/// The verdict on an object that is not stored yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Why it is invalid, in the words of `check`, without its name; empty if it is valid.
    pub errors: Vec<String>,
    /// What is skipped or not carried out.
    pub notes: Vec<String>,
}

/// Judges an object as the agent does when the API has it.
pub fn judge_object(kind: Kind, mut object: Value) -> Judgement {
    // The API server makes the name after it asked.
    if let Some(metadata) = object.get_mut("metadata")
        && metadata["name"].as_str().is_none_or(str::is_empty)
        && let Some(prefix) = metadata["generateName"].as_str().map(str::to_owned)
    {
        metadata["name"] = Value::from(prefix);
    }
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default();
    let path = path(kind, text("namespace"), text("name"));
    let path = path.unwrap_or_else(|| folder(kind));
    let place = format!("{}: ", path.display());
    let version = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    let judged = judge(&file(kind, &version, path, &content(object)));
    let own = |line: &String| line.strip_prefix(&place).unwrap_or(line).to_owned();
    let of_objects = judged.objects.iter().flat_map(|one| &one.errors);
    Judgement {
        errors: judged.errors.iter().chain(of_objects).map(own).collect(),
        notes: judged.notes.iter().map(own).collect(),
    }
}

fn is_istio(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let above = domain.strip_suffix(DOMAIN);
    above.is_some_and(|above| above.is_empty() || above.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn entry(resource_version: &str, status: &Value) -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1",
            "kind": "ServiceEntry",
            "metadata": {
                "name": "a", "namespace": "shop", "uid": "u", "resourceVersion": resource_version,
                "labels": {"app": "x"}, "generation": 3, "creationTimestamp": "2026-11-29T10:00:00Z",
                "managedFields": [{"manager": "kubectl"}],
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "{\"spec\": \"{{ not a template }}\"}",
                    "networking.istio.io/exportTo": "x", "my-istio.io/a": "b",
                },
            },
            "spec": {"hosts": ["a.example"], "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}], "resolution": "DNS"},
            "status": status,
        })
    }

    fn as_file(object: Value) -> SourceFile {
        let path = path(Kind::ServiceEntry, "shop", "a").unwrap();
        file(
            Kind::ServiceEntry,
            "networking.istio.io/v1",
            path,
            &content(object),
        )
    }

    #[test]
    fn the_text_has_what_a_rule_means_and_nothing_that_changes_without_it() {
        let first = as_file(entry("1", &Value::Null));
        let again = as_file(entry("2", &json!({"conditions": [{"type": "Reconciled"}]})));
        assert_eq!(first, again);
        assert_eq!(first.path, Path::new("kubernetes:serviceentry/shop/a"));
        for gone in ["uid", "managedFields", "last-applied", "my-istio"] {
            assert!(!first.text.contains(gone), "{}", first.text);
        }
        let judged = judge(&first);
        assert!(judged.errors.is_empty(), "{:?}", judged.errors);
        let one = &judged.objects[0];
        assert!(one.errors.is_empty(), "{:?}", one.errors);
        assert_eq!(one.object.generation, Some(3));
        let meta = &one.object.meta;
        assert_eq!((meta.namespace.as_str(), meta.name.as_str()), ("shop", "a"));
        assert_eq!(meta.labels["app"], "x");
        assert_eq!(
            meta.annotations.keys().collect::<Vec<_>>(),
            ["networking.istio.io/exportTo"]
        );
        assert_eq!(
            meta.creation_timestamp.as_deref(),
            Some("2026-11-29T10:00:00Z")
        );
    }

    #[test]
    fn a_text_that_yaml_reads_differently_stays_what_it_is() {
        let mut object = entry("1", &Value::Null);
        let odd = "yes: no # \u{85}\u{2028}\n\t\"'\\ {a: [b]} 0x1F ~ é";
        object["metadata"]["labels"] = json!({"a": odd, "b": "on", "c": "1e3", "d": "null"});
        let judged = judge(&as_file(object));
        let labels = &judged.objects[0].object.meta.labels;
        assert_eq!(labels["a"], odd);
        assert_eq!(
            [&labels["b"], &labels["c"], &labels["d"]],
            ["on", "1e3", "null"]
        );
    }

    #[test]
    fn a_name_that_no_object_can_have_gives_no_path() {
        for (namespace, name) in [
            ("", "a"),
            ("shop", ""),
            ("shop", "../b"),
            ("shop", "a/b"),
            ("Shop", "a"),
            ("shop", "a\nb"),
            ("..", "a"),
        ] {
            assert_eq!(
                path(Kind::Sidecar, namespace, name),
                None,
                "{namespace}/{name}"
            );
        }
        let long = "a".repeat(254);
        assert_eq!(path(Kind::Sidecar, "shop", &long), None);
        assert!(path(Kind::Sidecar, "shop", "a.b-c").is_some());
    }

    #[test]
    fn an_object_whose_name_the_server_makes_is_judged_like_others() {
        let mut object = entry("1", &Value::Null);
        object["metadata"]["name"] = Value::Null;
        let nameless = judge_object(Kind::ServiceEntry, object.clone());
        assert_eq!(nameless.errors, ["metadata.name: is not set"]);
        object["metadata"]["generateName"] = json!("a-");
        assert_eq!(
            judge_object(Kind::ServiceEntry, object),
            Judgement::default()
        );
        let text = judge_object(Kind::ServiceEntry, json!("text"));
        assert!(!text.errors.is_empty());
    }
}
