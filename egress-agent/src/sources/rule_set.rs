//! A rule set: the objects in force, and what is reported about them. `loader` makes it.

use super::objects::{Difference, Objects};
use super::refusals::Refusals;
use super::versions::Versions;
use egress_core::istio::{Kind, Object, Secrets};
use egress_core::registry::lint::{Found, Linter};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// With more objects than this, only `egress-agent check` looks for findings across objects.
const LINTED: usize = 50_000;

/// A line about the rules. Sets share it.
pub type Line = Arc<str>;

/// What is in force in place of a document that is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Instead {
    /// A valid document with the same name.
    Other,
    /// The last good version.
    LastGood,
    /// Nothing: its hosts are denied.
    Denied,
    /// Nothing: it is left out.
    #[default]
    LeftOut,
}

impl Instead {
    /// Its spelling as a label.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::LastGood => "last-good",
            Self::Denied => "denied",
            Self::LeftOut => "left-out",
        }
    }
}

/// The number of documents that are not in force.
pub type RejectedDocuments = BTreeMap<(Kind, Instead), usize>;

/// The result of the rule files and of the objects of the API.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    /// Objects in force: valid ones, last good versions of invalid ones, and stand-ins that deny.
    pub objects: Objects,
    /// Their number by kind.
    pub kinds: BTreeMap<Kind, usize>,
    /// The documents that are not in force.
    pub rejected: RejectedDocuments,
    /// The versions of the objects of the API that were read for this set: each is in force or in `refused`.
    pub api: Versions,
    /// The objects of the API of which another version, or none, is in force.
    pub refused: Arc<Refusals>,
    /// When the change that led to this set was noticed.
    pub noticed: Option<Instant>,
    /// The Secrets of the files.
    pub secrets: Secrets,
    /// What is wrong, one line each: file, line, field, reason, and what is in force instead.
    pub problems: Vec<Line>,
    /// What was skipped or is not carried out, one line each: file, line, field, reason.
    pub notes: Vec<Line>,
    /// Findings across objects, one line each. They come shortly after the set.
    pub findings: Arc<OnceLock<Vec<Line>>>,
    /// The objects of the previous agent at the first load, in case this set does not fit.
    pub previous: Vec<Arc<Object>>,
}

impl RuleSet {
    /// The problems in one line.
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

/// Looks for findings across the objects of a set. It keeps the last set, so that only the difference is checked.
#[derive(Debug)]
pub(super) struct Findings {
    root_namespace: String,
    linter: Linter,
    linted: Objects,
}

impl Findings {
    /// Of no rules.
    pub(super) fn new(root_namespace: &str) -> Self {
        Self {
            root_namespace: root_namespace.to_owned(),
            linter: Linter::new(root_namespace),
            linted: Objects::default(),
        }
    }

    /// The findings of a set, by file and line.
    pub(super) fn of<'a>(&mut self, rules: &'a RuleSet) -> &'a [Line] {
        rules.findings.get_or_init(|| {
            if rules.objects.len() > LINTED {
                *self = Self::new(&self.root_namespace);
                let line = format!(
                    "more than {LINTED} objects: findings across them are shown by egress-agent check only"
                );
                return vec![line.into()];
            }
            // After a panic, the next set is checked as a whole.
            let new = Self::new(&self.root_namespace);
            let mut own = std::mem::replace(self, new);
            let Difference { added, gone } = rules.objects.since(&own.linted);
            own.linter.change(&added, &gone);
            own.linted = rules.objects.clone();
            *self = own;
            let mut found: Vec<_> = self.linter.findings().collect();
            found.sort_by_key(|f| (&f.object.source, f.object.line));
            let line = |f: &Found| {
                let (object, message) = (&f.object, &f.message);
                let (place, field) = (object.place(), &message.field);
                format!("{place}: {field}: {}", message.text).into()
            };
            found.into_iter().map(line).collect()
        })
    }
}
