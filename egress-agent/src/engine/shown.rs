//! The engine's part of `status`, and the log lines with the same content.

use super::placing::Placing;
use crate::config::Mode;
use crate::in_use::InUse;
use crate::kernel::NoRoom;
use crate::operate::ask::{Detail, Facts};
use crate::operate::status::{Rejected, RuleLines, RulesStatus};
use crate::sources::{Line, Objects, RuleSet};
use egress_core::istio::Kind;
use egress_core::policy::state::State;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// The most problems, notes and findings (each) that `status` shows. The log has all of them.
const LINES: usize = 100;

/// See the module.
pub(super) struct Shown {
    /// What was noted when it happened; [`Self::facts`] adds the rest.
    noted: RulesStatus,
    /// Findings across the objects in force, once the linter has looked at them.
    findings: Arc<OnceLock<Vec<Line>>>,
}

impl Shown {
    /// No rules yet.
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            noted: RulesStatus {
                mode,
                ..RulesStatus::default()
            },
            findings: Arc::default(),
        }
    }

    /// Sets the mode of workloads without a mode of their own.
    pub(super) fn set_mode(&mut self, mode: Mode) {
        self.noted.mode = mode;
    }

    /// Notes that these rules are in force.
    pub(super) fn set_rules(&mut self, rules: &RuleSet) {
        self.noted.objects = rules.objects.len();
        self.noted.kinds = by_name(&rules.kinds);
        let rejected = rules.rejected.iter();
        let rejected = rejected.map(|((kind, instead), documents)| Rejected {
            kind: kind.as_str().to_owned(),
            instead: *instead,
            documents: *documents,
        });
        self.noted.rejected = rejected.collect();
        self.noted.lines.problems = rules.problems.len();
        self.noted.lines.notes = rules.notes.len();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        self.noted.applied_at = now.ok().map(|since| since.as_secs());
        self.noted.problems = shown(&rules.problems);
        self.noted.notes = shown(&rules.notes);
        self.noted.problem = None;
        self.findings = Arc::clone(&rules.findings);
    }

    /// Notes which objects are in force instead of those of the files.
    pub(super) fn set_objects(&mut self, objects: &Objects) {
        self.noted.objects = objects.len();
        self.noted.kinds = by_name(&objects.kinds());
    }

    /// The tables have no room for new rules. Returns the text of it.
    pub(super) fn does_not_fit(&mut self, full: &NoRoom, instead: &str) -> String {
        let problem = format!("the rules do not fit: {full}; {instead}");
        tracing::error!(problem, "rules not applied");
        self.noted.problem = Some(problem.clone());
        problem
    }

    /// The rule files are not followed any more.
    pub(super) fn not_followed(&mut self) {
        let problem = "the rule files are not followed any more: restart the agent";
        tracing::error!(problem, "the last good rules stay in force");
        self.noted.problem = Some(problem.to_owned());
    }

    /// Notes how many workloads have no policy because all ids of policies are in use.
    pub(super) fn without_policy(&mut self, workloads: usize) {
        let before = std::mem::replace(&mut self.noted.without_policy, workloads);
        if workloads > before {
            tracing::error!(
                workloads,
                "workloads need more different policies than the kernel has: those without one are denied \
                 everything until another policy ends"
            );
        }
    }

    /// The state of the rules and the workloads, for `status`.
    pub(super) fn facts(&self, state: &State, placing: &Placing, detail: Detail) -> Facts {
        let numbers = self.numbers(state, placing);
        if detail == Detail::Numbers {
            return Facts {
                rules: numbers,
                workloads: Vec::new(),
            };
        }
        let findings = self.findings.get().map_or(&[][..], Vec::as_slice);
        let failing = state.failing().into_iter();
        Facts {
            rules: RulesStatus {
                problems: self.noted.problems.clone(),
                notes: self.noted.notes.clone(),
                findings: shown(findings),
                failing: failing
                    .map(|(name, why)| (name.to_string(), why.to_string()))
                    .collect(),
                ..numbers
            },
            workloads: placing.workloads.placed(),
        }
    }

    /// The state without names and lines.
    fn numbers(&self, state: &State, placing: &Placing) -> RulesStatus {
        let [addresses, networks] = placing.tables.in_use();
        let (used, limit) = state.policies_in_use();
        let (vips, most_vips) = state.allocated_in_use();
        let noted = &self.noted;
        RulesStatus {
            mode: noted.mode,
            objects: noted.objects,
            kinds: noted.kinds.clone(),
            rejected: noted.rejected.clone(),
            applied_at: noted.applied_at,
            problem: noted.problem.clone(),
            lines: RuleLines {
                findings: self.findings.get().map_or(0, Vec::len),
                ..noted.lines
            },
            generation: state.generation(),
            policies: InUse { used, limit },
            addresses,
            networks,
            leases: state.leases(),
            cgroups: placing.workloads.counted(),
            served_namespaces: placing.workloads.served_namespaces(),
            without_policy: noted.without_policy,
            too_deep: placing.workloads.too_deep(),
            names: state.names_asked(),
            names_without_address: state.addressless().len(),
            names_failing: state.failing_count(),
            names_learned: state.names_learned(),
            allocated: InUse {
                used: vips,
                limit: most_vips,
            },
            lost: state.addresses_lost().into(),
            ..RulesStatus::default()
        }
    }
}

fn by_name(kinds: &BTreeMap<Kind, usize>) -> BTreeMap<String, usize> {
    let named = kinds.iter();
    named
        .map(|(kind, count)| (kind.as_str().to_owned(), *count))
        .collect()
}

fn shown(lines: &[Line]) -> Vec<String> {
    lines.iter().take(LINES).map(ToString::to_string).collect()
}
