//! The condition that an object must have, and the change of its status that gives it that. Pure.

use crate::applied::Applied;
use crate::sources::Refusal;
use egress_core::istio::{RuleName, is_api};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The condition's type. Conditions of other types are others'.
pub(super) const TYPE: &str = "EgressAccepted";
/// The most characters of its message.
const MESSAGE: usize = 1000;

/// What is said about a version of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// `metadata.generation` of the version.
    pub(super) generation: i64,
    /// When the object was created: an object that was made anew begins with generation 1 again.
    created: Option<String>,
    /// Why the object is invalid; `None` if it is valid.
    invalid: Option<String>,
}

/// What must be said about each object of the API.
pub(super) fn wanted(applied: &Applied) -> BTreeMap<RuleName, Wanted> {
    let mut all = BTreeMap::new();
    for object in applied.objects.iter().filter(|o| is_api(&o.source)) {
        if let Some(generation) = object.generation {
            let wanted = Wanted {
                generation,
                created: object.meta.creation_timestamp.clone(),
                invalid: None,
            };
            all.insert(RuleName::of(object), wanted);
        }
    }
    for (name, refusal) in &*applied.refused {
        if let Some(generation) = refusal.generation {
            let wanted = Wanted {
                generation,
                created: None,
                invalid: (!refusal.errors.is_empty()).then(|| reasons(name, refusal)),
            };
            all.insert(name.clone(), wanted);
        }
    }
    all
}

/// The lines of `check`, without the name of the object, which has the condition.
fn reasons(name: &RuleName, refusal: &Refusal) -> String {
    let place = format!("kubernetes:{name}: ");
    let lines = refusal
        .errors
        .iter()
        .map(|line| line.strip_prefix(&place).unwrap_or(line));
    let text = lines.collect::<Vec<_>>().join("; ");
    match text.char_indices().nth(MESSAGE) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// What to do with an object.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    /// It has the condition.
    Nothing,
    /// It is another version than the one that `wanted` is about.
    Other,
    /// This merge patch of its status.
    Patch(Value),
}

/// The change of an object's status. `now` is a time as the API writes it.
pub(super) fn change(object: &Value, wanted: &Wanted, now: &str) -> Change {
    if object["metadata"]["generation"] != wanted.generation {
        return Change::Other;
    }
    let conditions = match &object["status"]["conditions"] {
        Value::Array(conditions) => conditions.clone(),
        _ => Vec::new(),
    };
    let (status, reason, message) = match &wanted.invalid {
        None => ("True", "Valid", "the egress gate accepts this object"),
        Some(why) => ("False", "Invalid", why.as_str()),
    };
    let mut own = json!({
        "type": TYPE,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": wanted.generation,
        "lastTransitionTime": now,
    });
    let is_own = |condition: &Value| condition["type"] == TYPE;
    let before = conditions.iter().find(|condition| is_own(condition));
    if let Some(before) = before {
        if before["status"] == status {
            own["lastTransitionTime"] = before["lastTransitionTime"].clone();
        }
        let mut same = before.clone();
        if let Some(fields) = same.as_object_mut() {
            fields.remove("lastProbeTime");
        }
        if same == own {
            return Change::Nothing;
        }
    }
    let alone = conditions.iter().all(is_own);
    let mut all: Vec<Value> = conditions;
    match all.iter_mut().find(|condition| is_own(condition)) {
        Some(place) => *place = own,
        None => all.push(own),
    }
    // A merge patch replaces a list as a whole, so it must not meet another version of it.
    let mut patch = json!({
        "metadata": {"resourceVersion": object["metadata"]["resourceVersion"]},
        "status": {"conditions": all},
    });
    if alone {
        // Beside others this number says what those have seen.
        patch["status"]["observedGeneration"] = json!(wanted.generation);
    }
    Change::Patch(patch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const NOW: &str = "2026-11-29T18:00:00Z";

    fn name() -> RuleName {
        "se/shop/a".parse().unwrap()
    }

    fn about(errors: &[&str]) -> Wanted {
        let refusal = Refusal {
            generation: Some(3),
            errors: errors.iter().map(|line| (*line).into()).collect(),
            ..Refusal::default()
        };
        let applied = Applied {
            refused: Arc::new([(name(), refusal)].into()),
            ..Applied::default()
        };
        wanted(&applied).remove(&name()).unwrap()
    }

    fn object(conditions: &Value) -> Value {
        json!({"metadata": {"generation": 3, "resourceVersion": "7"}, "status": {"conditions": conditions}})
    }

    fn patched(object: &Value, wanted: &Wanted) -> Value {
        match change(object, wanted, NOW) {
            Change::Patch(patch) => patch,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_invalid_object_says_what_check_says() {
        let wanted = about(&[
            "kubernetes:serviceentry/shop/a: spec.ports: no port",
            "kubernetes:serviceentry/shop/a: spec.hosts: no host",
        ]);
        let patch = patched(&object(&Value::Null), &wanted);
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(
            condition["message"],
            "spec.ports: no port; spec.hosts: no host"
        );
        assert_eq!(
            (
                &condition["status"],
                &condition["reason"],
                &condition["observedGeneration"]
            ),
            (&json!("False"), &json!("Invalid"), &json!(3))
        );
        assert_eq!(patch["status"]["observedGeneration"], 3);
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let long = "x".repeat(9000);
        let patch = patched(&object(&Value::Null), &about(&[&long]));
        assert_eq!(
            patch["status"]["conditions"][0]["message"]
                .as_str()
                .unwrap()
                .len(),
            MESSAGE + 3
        );
    }

    #[test]
    fn what_is_written_is_not_written_again() {
        let wanted = about(&[]);
        let first = patched(&object(&Value::Null), &wanted);
        let mut conditions = first["status"]["conditions"].clone();
        assert_eq!(
            change(&object(&conditions), &wanted, "later"),
            Change::Nothing
        );
        // The time of the change of another field is not that of a transition.
        conditions[0]["observedGeneration"] = json!(2);
        let patch = patched(&object(&conditions), &wanted);
        assert_eq!(patch["status"]["conditions"][0]["lastTransitionTime"], NOW);
    }

    #[test]
    fn conditions_of_others_stay_as_they_are() {
        let other = json!({"type": "Reconciled", "status": "True", "x": [1, null]});
        let own = json!({"type": TYPE, "status": "False"});
        let last = json!({"type": "Programmed"});
        let patch = patched(&object(&json!([other, own, last])), &about(&[]));
        let after = &patch["status"]["conditions"];
        assert_eq!((&after[0], &after[2]), (&other, &last));
        assert_eq!(after[1]["status"], "True");
        assert!(
            patch["status"].get("observedGeneration").is_none(),
            "{patch}"
        );
    }

    #[test]
    fn another_version_of_the_object_is_left_alone() {
        let mut newer = object(&Value::Null);
        newer["metadata"]["generation"] = json!(4);
        assert_eq!(change(&newer, &about(&[]), NOW), Change::Other);
    }
}
