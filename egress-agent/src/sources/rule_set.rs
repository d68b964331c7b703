//! A rule set: the objects in force, and what is reported about them. `loader` makes it.

use super::objects::{Difference, Objects};
use egress_core::istio::Object;
use egress_core::registry::lint::{Found, Linter};
use std::sync::{Arc, OnceLock};

/// With more objects the findings across objects are `egress-agent check`'s alone.
const LINTED: usize = 50_000;

/// A line on the rules, shared by the sets that have it.
pub type Line = Arc<str>;

/// What the rule files amount to.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    /// Objects in force: valid ones, last good versions of invalid ones, and stand-ins that deny.
    pub objects: Objects,
    /// What is wrong, one line each: file, line, field, reason, and what is in force instead.
    pub problems: Vec<Line>,
    /// What was skipped or is not carried out, one line each: file, line, field, reason.
    pub notes: Vec<Line>,
    /// Findings across objects, one line each; there a moment after the set.
    pub findings: Arc<OnceLock<Vec<Line>>>,
    /// The objects of the previous agent, at the first load: for a set that does not fit.
    pub previous: Vec<Arc<Object>>,
}

impl RuleSet {
    /// What is wrong in one line.
    pub(super) fn problem(&self) -> Option<String> {
        let first = self.problems.first()?;
        let more = self.problems.len() - 1;
        Some(if more > 0 {
            format!("{first}; and {more} more: see egress-agent check")
        } else {
            first.to_string()
        })
    }
}

/// Looks for what the objects of a set do together; remembers the last set, so that the next one
/// costs what is different in it.
#[derive(Debug, Default)]
pub(super) struct Findings {
    linter: Linter,
    linted: Objects,
}

impl Findings {
    /// The findings of a set, by file and line.
    pub(super) fn of<'a>(&mut self, rules: &'a RuleSet) -> &'a [Line] {
        rules.findings.get_or_init(|| {
            if rules.objects.len() > LINTED {
                *self = Self::default();
                let line = format!(
                    "more than {LINTED} objects: findings across them are shown by egress-agent check only"
                );
                return vec![line.into()];
            }
            // After a panic the next set begins anew.
            let mut own = std::mem::take(self);
            let Difference { added, gone } = rules.objects.since(&own.linted);
            own.linter.change(&added, &gone);
            own.linted = rules.objects.clone();
            *self = own;
            let mut found: Vec<_> = self.linter.findings().collect();
            found.sort_by_key(|f| (&f.object.source, f.object.line));
            let line = |f: &Found| {
                let (object, message) = (&f.object, &f.message);
                let (source, line, field) = (&object.source, object.line, &message.field);
                format!("{source}:{line}: {field}: {}", message.text).into()
            };
            found.into_iter().map(line).collect()
        })
    }
}
