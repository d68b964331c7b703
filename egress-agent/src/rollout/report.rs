//! What an agent publishes about the rules in force on its node: one annotation of a small object.

use crate::applied::Applied;
use crate::sources::Digest;
use egress_core::istio::{Kind, RuleName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The annotation.
pub(super) const ANNOTATION: &str = "egress-agent/rules";
/// The label of the objects, and its value.
pub(super) const LABEL: (&str, &str) = ("egress-agent/report", "rules");
/// The most refused objects that are named, and the most characters of each reason: 5 000 nodes times these are in etcd.
const NAMED: usize = 16;
const REASON: usize = 240;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Report {
    /// The versions of the objects that were read, by kind. Each is in force or refused.
    versions: BTreeMap<String, String>,
    /// Objects whose version is not in force, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    refused: BTreeMap<String, String>,
    /// How many more there are.
    #[serde(skip_serializing_if = "is_zero")]
    more: usize,
    /// Why later rules are not in force as a whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "the form that serde asks for"
)]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Report {
    pub(super) fn of(applied: &Applied) -> Self {
        let versions = applied.api.iter();
        let refused = applied.refused.iter().take(NAMED);
        Self {
            versions: versions
                .map(|(kind, digest)| (kind.to_string(), digest.to_string()))
                .collect(),
            refused: refused
                .map(|(name, refusal)| (name.to_string(), cut(&refusal.text())))
                .collect(),
            more: applied.refused.len().saturating_sub(NAMED),
            problem: applied.problem.as_deref().map(cut),
        }
    }

    /// The versions of a kind's objects; `None` if the node has not read that kind.
    pub(super) fn versions(&self, kind: Kind) -> Option<Digest> {
        self.versions.get(kind.as_str())?.parse().ok()
    }

    /// Why an object is not in force, if it is refused.
    pub(super) fn refused(&self, name: &RuleName) -> Option<String> {
        let named = self.refused.get(&name.to_string());
        let unnamed = (self.more > 0).then(|| {
            let all = self.refused.len() + self.more;
            format!("the node refuses {all} objects and does not name them all: see egress-agent status there")
        });
        named.cloned().or(unnamed)
    }

    /// Why later rules are not in force.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Refusal;
    use std::sync::Arc;

    fn name(n: usize) -> RuleName {
        format!("serviceentry/shop/{n:03}").parse().unwrap()
    }

    fn refusing(count: usize) -> Report {
        let refusal = Refusal {
            lines: vec!["é".repeat(10_000).into()],
            ..Refusal::default()
        };
        let refused = (0..count).map(|n| (name(n), refusal.clone()));
        Report::of(&Applied {
            refused: Arc::new(refused.collect()),
            ..Applied::default()
        })
    }

    #[test]
    fn however_many_objects_are_refused_the_report_is_small() {
        let report = refusing(50_000);
        assert!(serde_json::to_string(&report).unwrap().len() < 10_000);
        assert!(report.refused(&name(0)).unwrap().contains("é..."));
        let unnamed = report.refused(&name(49_999)).unwrap();
        assert!(unnamed.contains("refuses 50000 objects"), "{unnamed}");
        assert_eq!(refusing(1).refused(&name(1)), None);
    }

    #[test]
    fn a_report_of_another_version_is_read_as_far_as_it_is_known() {
        let text =
            r#"{"versions": {"ServiceEntry": "0f", "Gateway": "1", "Sidecar": "?"}, "later": 1}"#;
        let report: Report = serde_json::from_str(text).unwrap();
        assert_eq!(report.versions(Kind::ServiceEntry), "f".parse().ok());
        assert_eq!(report.versions(Kind::Sidecar), None);
        assert_eq!(report.versions(Kind::WorkloadEntry), None);
    }
}
