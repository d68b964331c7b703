//! Metrics of the Kubernetes API as a source: of rules, of identities, and of the cluster's own ranges.

use crate::monitoring::metric::{Group, counter, gauge};
use crate::monitoring::values::Values;
use crate::operate::status::FollowedStatus;
use std::time::Duration;

/// Each followed kind with the age of the status.
fn kinds<'a>(values: &Values<'a>) -> impl Iterator<Item = (&'a FollowedStatus, f64)> {
    let all = values.status.map(|(status, age)| {
        let kinds = status.kubernetes.iter();
        kinds.map(move |kind| (kind, age.as_secs_f64()))
    });
    all.into_iter().flatten()
}

/// See the module.
pub const GROUP: Group = Group {
    title: "The Kubernetes API",
    metrics: &[
        gauge(
            "egress_kubernetes_synced",
            &["kind"],
            "1 if all objects of the kind were read since the start. Until then those of the last good copy are in force.",
            |values, out| {
                for (kind, _) in kinds(values) {
                    out.sample(&[("kind", &kind.kind)], u8::from(kind.synced));
                }
            },
        ),
        gauge(
            "egress_kubernetes_objects",
            &["kind"],
            "Objects of the kind that the agent knows.",
            |values, out| {
                for (kind, _) in kinds(values) {
                    out.sample(&[("kind", &kind.kind)], kind.objects);
                }
            },
        ),
        gauge(
            "egress_kubernetes_away_seconds",
            &["kind"],
            "For how long the API server has not let the agent follow the kind; 0 while it does. Known objects stay in force.",
            |values, out| {
                for (kind, age) in kinds(values) {
                    let away = kind.away_seconds.map_or(0.0, |away| away + age);
                    out.sample(&[("kind", &kind.kind)], away);
                }
            },
        ),
        gauge(
            "egress_kubernetes_last_answer_timestamp_seconds",
            &["kind"],
            "When the API server last sent anything about the kind (a list, an event, a bookmark, the head of a watch), in seconds since 1970. A watch may be silent for five minutes.",
            |values, out| {
                for (kind, age) in kinds(values) {
                    if let Some(seconds) = kind.last_answer_seconds {
                        let ago = Duration::try_from_secs_f64(seconds + age).unwrap_or_default();
                        out.sample(&[("kind", &kind.kind)], values.timestamp(ago));
                    }
                }
            },
        ),
        counter(
            "egress_kubernetes_failures_total",
            &["kind"],
            "Requests about the kind that failed. The agent tries again after each, with pauses of up to 30 s.",
            |values, out| {
                for (kind, _) in kinds(values) {
                    out.sample(&[("kind", &kind.kind)], kind.failures);
                }
            },
        ),
        counter(
            "egress_kubernetes_objects_refused_total",
            &["kind"],
            "Objects that were received and cannot be used, because all objects have too many bytes together or the name is impossible. Invalid Istio objects are in egress_rules_rejected.",
            |values, out| {
                for (kind, _) in kinds(values) {
                    out.sample(&[("kind", &kind.kind)], kind.refused);
                }
            },
        ),
        gauge(
            "egress_kubernetes_ranges_refused",
            &[],
            "Ranges that objects name as the cluster's and that are not allowed, because they are too wide or impossible. `egress-agent status` names the objects.",
            |values, out| {
                let status = values.status.map(|(status, _)| status);
                if let Some(cluster) = status.and_then(|status| status.cluster.as_ref()) {
                    out.value(cluster.refused.len());
                }
            },
        ),
    ],
};
