//! What the rule files amount to: the objects in force, and what there is to say of them.
//!
//! How a set is made is `loader`'s.

use super::objects::Objects;
use egress_core::istio::Object;
use egress_core::registry::lint::lint;
use std::sync::{Arc, OnceLock};

/// With more objects the findings across objects are `egress-agent check`'s alone.
const LINTED: usize = 20_000;

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

    /// Looks for what the objects do together, once.
    pub(super) fn find(&self) -> &[Line] {
        self.findings.get_or_init(|| {
            if self.objects.len() > LINTED {
                let line = format!(
                    "more than {LINTED} objects: findings across them are shown by egress-agent check only"
                );
                return vec![line.into()];
            }
            let objects = self.objects.to_vec();
            let findings = lint(&objects).into_iter();
            findings
                .filter_map(|f| {
                    let object = objects.get(f.object)?;
                    let field = f.message.field;
                    let (source, line, text) = (&object.source, object.line, f.message.text);
                    Some(format!("{source}:{line}: {field}: {text}").into())
                })
                .collect()
        })
    }
}
