//! One question of the API server, an `AdmissionReview` of `admission.k8s.io/v1`, and its answer. Uses no socket.

use crate::sources::{Judgement, judge_object};
use egress_core::istio::Kind;
use serde::Deserialize;
use serde_json::{Value, json};
use thiserror::Error;

const VERSION: &str = "admission.k8s.io/v1";
/// The most characters of the message of a denial.
const MESSAGE: usize = 2000;
/// The most warnings, and the most characters of each: the API server passes on 4 096 bytes, of each at most 256.
const WARNINGS: usize = 16;
const WARNING: usize = 250;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Review {
    api_version: String,
    request: Asked,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Asked {
    uid: String,
    kind: OfKind,
    #[serde(default)]
    sub_resource: String,
    #[serde(default)]
    object: Value,
    #[serde(default)]
    old_object: Value,
}

#[derive(Deserialize)]
struct OfKind {
    #[serde(default)]
    kind: String,
}

/// A question that has no answer.
#[derive(Debug, Error)]
pub(super) enum Malformed {
    /// It is not JSON of this form.
    #[error("malformed AdmissionReview: {0}")]
    Json(#[from] serde_json::Error),
    /// It has another version.
    #[error("want an AdmissionReview of {VERSION}, got {0:?}")]
    Version(String),
}

/// The answer to a question.
pub(super) fn answer(question: &[u8]) -> Result<Value, Malformed> {
    let review: Review = serde_json::from_slice(question)?;
    if review.api_version != VERSION {
        return Err(Malformed::Version(review.api_version));
    }
    let asked = review.request;
    let mut response = json!({"uid": asked.uid, "allowed": true});
    if let Some(Judgement { errors, notes }) = judgement(&asked) {
        let warnings = notes.iter().take(WARNINGS).map(|note| cut(note, WARNING));
        let mut warnings: Vec<String> = warnings.collect();
        let message = cut(&errors.join("; "), MESSAGE);
        // An object that was invalid before may still be labelled, annotated or released by a finalizer.
        let same = asked.old_object["spec"] == asked.object["spec"] && !asked.old_object.is_null();
        if !errors.is_empty() && same {
            warnings.insert(
                0,
                cut(&format!("the object is invalid: {message}"), WARNING),
            );
        } else if !errors.is_empty() {
            response["allowed"] = json!(false);
            response["status"] = json!({"code": 422, "reason": "Invalid", "message": message});
        }
        if !warnings.is_empty() {
            response["warnings"] = json!(warnings);
        }
    }
    Ok(json!({"apiVersion": VERSION, "kind": "AdmissionReview", "response": response}))
}

/// `None` if there is nothing to judge.
fn judgement(asked: &Asked) -> Option<Judgement> {
    let deleted =
        asked.object.is_null() || !asked.object["metadata"]["deletionTimestamp"].is_null();
    if deleted || !asked.sub_resource.is_empty() {
        return None;
    }
    let named = |kind: &Kind| kind.as_str() == asked.kind.kind;
    let kind = Kind::ALL.into_iter().find(named)?;
    Some(judge_object(kind, asked.object.clone()))
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(resolution: &str) -> Value {
        json!({
            "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
            "metadata": {"name": "a", "namespace": "shop", "managedFields": [{"manager": "kubectl"}]},
            "spec": {
                "hosts": ["a.example"], "resolution": resolution,
                "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}],
            },
        })
    }

    fn ask(object: &Value, old: &Value, more: &Value) -> Value {
        let mut request = json!({
            "uid": "u-1", "kind": {"group": "networking.istio.io", "version": "v1", "kind": "ServiceEntry"},
            "operation": "CREATE", "object": object, "oldObject": old,
        });
        for (key, value) in more.as_object().unwrap() {
            request[key] = value.clone();
        }
        let review = json!({"apiVersion": VERSION, "kind": "AdmissionReview", "request": request});
        answer(review.to_string().as_bytes()).unwrap()["response"].clone()
    }

    #[test]
    fn an_invalid_object_is_denied_with_the_words_of_check() {
        let response = ask(&entry("SOMEHOW"), &Value::Null, &json!({}));
        assert_eq!(
            (&response["uid"], &response["allowed"]),
            (&json!("u-1"), &json!(false))
        );
        let message = response["status"]["message"].as_str().unwrap();
        assert!(message.starts_with("spec.resolution: "), "{message}");
        let response = ask(&entry("DNS"), &Value::Null, &json!({}));
        assert_eq!(response, json!({"uid": "u-1", "allowed": true}));
    }

    #[test]
    fn what_is_not_a_new_rule_passes() {
        let broken = || entry("SOMEHOW");
        let mut leaving = broken();
        leaving["metadata"]["deletionTimestamp"] = json!("2026-11-29T18:00:00Z");
        for (object, old, more) in [
            (Value::Null, broken(), json!({"operation": "DELETE"})),
            (leaving, entry("DNS"), json!({})),
            (broken(), entry("DNS"), json!({"subResource": "status"})),
            (broken(), Value::Null, json!({"kind": {"kind": "Gateway"}})),
        ] {
            assert_eq!(ask(&object, &old, &more)["allowed"], true);
        }
        let mut labelled = broken();
        labelled["metadata"]["labels"] = json!({"a": "b"});
        let response = ask(&labelled, &broken(), &json!({"operation": "UPDATE"}));
        assert_eq!(response["allowed"], true);
        assert!(
            response["warnings"][0]
                .as_str()
                .unwrap()
                .contains("spec.resolution"),
            "{response}"
        );
    }

    #[test]
    fn a_field_that_is_not_carried_out_is_a_warning() {
        let object = json!({
            "apiVersion": "networking.istio.io/v1", "kind": "VirtualService",
            "metadata": {"name": "a", "namespace": "shop"},
            "spec": {"hosts": ["a.example"], "http": [{
                "route": [{"destination": {"host": "a.example"}}],
                "headers": {"request": {"set": {"a": "%NOPE%"}}},
            }]},
        });
        let kind = json!({"kind": {"kind": "VirtualService"}});
        let response = ask(&object, &Value::Null, &kind);
        assert_eq!(response["allowed"], true);
        let warning = response["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with("spec.http[0].headers: "), "{warning}");
        assert!(warning.chars().count() <= WARNING + 3);
    }

    #[test]
    fn what_is_no_review_has_no_answer() {
        let other =
            r#"{"apiVersion": "admission.k8s.io/v1beta1", "request": {"uid": "u", "kind": {}}}"#;
        for text in ["", "{}", "[]", other] {
            assert!(answer(text.as_bytes()).is_err(), "{text}");
        }
    }
}
