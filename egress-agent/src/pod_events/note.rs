//! The Event of a report: `events.k8s.io/v1`. Pure.

use crate::observe::pod_denials::Due;
use serde_json::{Value, json};

/// The most bytes of a note (`pkg/apis/core/validation/events.go`).
const NOTE: usize = 1024;
/// The most bytes of `reportingInstance`.
const INSTANCE: usize = 128;
/// The most bytes of a pod's name in the name of its Event.
const POD: usize = 230;
/// The controller that reports.
const CONTROLLER: &str = "egress-agent";

/// What the Event says.
fn note(due: &Due) -> String {
    let namespace = &due.pod.0;
    let Some((destination, reason)) = &due.id.kind else {
        return "Egress to further destinations is denied. The agent's log has each of them."
            .to_owned();
    };
    let mut text = format!("Egress to {destination} is denied ({reason}).");
    if let Some(detail) = &due.detail {
        text.extend([" ", detail, "."]);
    }
    let advice = if reason.contains("listed") {
        format!(
            " To allow it, list the host and the port in a ServiceEntry that namespace {namespace} can see. \
             `egress-agent explain {destination}` on the node shows the verdict."
        )
    } else {
        format!(" `egress-agent explain {destination}` on the node shows the verdict and the rule.")
    };
    text.push_str(&advice);
    while text.len() > NOTE {
        text.pop();
    }
    text
}

/// The name of a new Event: that of the pod, and a number that makes it unique.
pub(super) fn name(due: &Due, number: u64) -> String {
    let pod = due.pod.1.get(..POD).unwrap_or(&due.pod.1);
    format!("{}.{number:016x}", pod.trim_end_matches(['.', '-']))
}

/// A new Event. `now` is a time as the API writes it.
pub(super) fn event(due: &Due, name: &str, node: &str, now: &str) -> Value {
    let (namespace, pod) = &due.pod;
    let mut event = json!({
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "eventTime": now,
        "type": "Warning",
        "reason": "EgressDenied",
        "action": "Deny",
        "note": note(due),
        "reportingController": CONTROLLER,
        "reportingInstance": node.get(..INSTANCE).unwrap_or(node),
        "regarding": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": pod, "uid": due.id.uid},
    });
    // A series has at least two.
    if due.count > 1 {
        event["series"] = series(due, now)["series"].take();
    }
    event
}

/// The change of an Event that was written before.
pub(super) fn series(due: &Due, now: &str) -> Value {
    let count = due.count.min(i32::MAX as u64);
    json!({"series": {"count": count, "lastObservedTime": now}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::pod_denials::ReportId;

    fn due(reason: &str, detail: &str, count: u64) -> Due {
        Due {
            id: ReportId {
                uid: "u".to_owned(),
                kind: Some(("a.example:443".to_owned(), reason.to_owned())),
            },
            pod: ("shop".to_owned(), "client".to_owned()),
            detail: (!detail.is_empty()).then(|| detail.to_owned()),
            count,
            written: None,
        }
    }

    #[test]
    fn an_event_says_what_is_denied_why_and_what_to_do() {
        let due = due("not-listed", "a.example lists port 80", 1);
        let event = event(&due, &name(&due, 7), "node-1", "now");
        assert_eq!(
            event["note"],
            "Egress to a.example:443 is denied (not-listed). a.example lists port 80. To allow it, list the host and the \
             port in a ServiceEntry that namespace shop can see. `egress-agent explain a.example:443` on the node shows \
             the verdict."
        );
        assert_eq!(event["metadata"]["name"], "client.0000000000000007");
        assert_eq!(event["regarding"]["uid"], "u");
        assert!(event.get("series").is_none(), "{event}");
    }

    #[test]
    fn no_text_is_longer_than_the_api_takes() {
        let mut due = due("protocol", &"é".repeat(2000), 3);
        due.pod.1 = format!("{}-a", "a".repeat(229));
        let event = event(&due, &name(&due, u64::MAX), &"n".repeat(253), "now");
        assert!(event["note"].as_str().unwrap().len() <= NOTE);
        assert_eq!(event["reportingInstance"].as_str().unwrap().len(), INSTANCE);
        let name = event["metadata"]["name"].as_str().unwrap();
        assert!(name.len() <= 253 && name.contains("a.ffff"), "{name}");
        assert_eq!(event["series"]["count"], 3);
    }
}
