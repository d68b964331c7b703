//! Files of Istio's resources as a rule set. The unit is the object: an invalid one is left out and
//! reported, its last good version stays in force, and the others apply.
//!
//! Owns the rules in force. `judge` judges one file; `store` keeps the rules over a restart.

use super::files::{Feed, Reading, digest, follow};
use super::judge::{Id, Judged, judge, twice};
use super::store;
use crate::failure::Failure;
use egress_core::istio::Object;
use egress_core::registry::lint::lint;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Lines of one load that are logged; `egress-agent check` shows all.
const LOGGED: usize = 100;
/// With more objects the findings across objects are `egress-agent check`'s alone.
const LINTED: usize = 20_000;

/// What the rule files amount to.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    /// Objects in force: valid ones, last good versions of invalid ones, and stand-ins that deny.
    pub objects: Vec<Arc<Object>>,
    /// Of the files' names and texts; distinguishes two sets while this process lives.
    pub digest: u64,
    /// What is wrong, one line each: file, line, field, reason, and what is in force instead.
    pub problems: Vec<String>,
    /// What was skipped or is not carried out, one line each: file, line, field, reason.
    pub notes: Vec<String>,
    /// Findings across objects, one line each; there a moment after the set.
    pub findings: Arc<OnceLock<Vec<String>>>,
    /// The objects of the previous agent, at the first load: for a set that does not fit.
    pub previous: Vec<Arc<Object>>,
}

/// Loads the rules and follows them; see [`follow`]. `store` has the last good ones of the previous
/// agent. Fails for a path that does not exist, not for the content of files.
pub fn follow_rules(
    paths: &[PathBuf],
    store: &Path,
) -> Result<(Feed<RuleSet>, impl Future<Output = ()> + Send + use<>), Failure> {
    let loader = Mutex::new(Loader::after(store::read(store)));
    let told = Mutex::new(BTreeSet::new());
    let compile = move |reading: &Reading| {
        let mut loader = loader.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = loader.load(reading);
        loader.tell(&rules);
        let problem = rules.problem();
        (rules, problem)
    };
    let after = move |rules: &RuleSet| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        let findings = rules.find();
        tell_new(&mut told, findings, |line| tracing::warn!("{line}"));
    };
    follow(paths, compile, after)
}

/// The set that the files amount to for an agent that knows nothing else.
pub fn compile(reading: &Reading) -> RuleSet {
    Loader::default().load(reading)
}

/// What was learnt of the files so far.
#[derive(Debug, Default)]
struct Loader {
    /// A file that did not change keeps its objects, the same `Arc`s, by which the registry knows
    /// that it need not look at them again.
    read: BTreeMap<PathBuf, (u64, Judged)>,
    /// The last good version of each object.
    good: BTreeMap<Id, Arc<Object>>,
    /// Of the previous agent, until the first load.
    previous: Vec<Arc<Object>>,
    problems_told: BTreeSet<String>,
    notes_told: BTreeSet<String>,
}

impl Loader {
    fn after(previous: Vec<Arc<Object>>) -> Self {
        let good = previous.iter().map(|o| (Id::of(o), Arc::clone(o)));
        Self {
            good: good.collect(),
            previous,
            ..Self::default()
        }
    }

    fn load(&mut self, reading: &Reading) -> RuleSet {
        let mut rules = RuleSet {
            digest: digest(reading),
            previous: std::mem::take(&mut self.previous),
            ..RuleSet::default()
        };
        let mut now = BTreeMap::new();
        for file in &reading.files {
            let own = file.digest();
            let judged = match self.read.remove(&file.path) {
                Some((held, judged)) if held == own => judged,
                _ => judge(file),
            };
            now.insert(file.path.clone(), (own, judged));
        }
        self.read = now;
        let all = self.read.values().flat_map(|(_, judged)| &judged.objects);
        let valid = || all.clone().filter(|one| one.errors.is_empty());
        let twice = twice(valid().map(|one| (one.id.clone(), &*one.object)));
        let differs = |id: &Id| twice.get(id).is_some_and(|again| !again.same);
        let valid: BTreeSet<Id> = valid()
            .map(|one| one.id.clone())
            .filter(|id| !differs(id))
            .collect();
        // Ids that are in the files, and those of which one document was enough.
        let (mut seen, mut applied) = (BTreeSet::new(), BTreeSet::new());
        for (_, judged) in self.read.values() {
            rules.notes.extend(judged.notes.iter().cloned());
            rules.problems.extend(judged.errors.iter().cloned());
            for one in &judged.objects {
                seen.insert(one.id.clone());
                let mut errors = one.errors.clone();
                if errors.is_empty()
                    && let Some(again) = twice.get(&one.id)
                {
                    let (file, line) = (&one.object.source, one.object.line);
                    let text = again.text(&one.object);
                    if again.same && !applied.insert(one.id.clone()) {
                        rules.notes.push(format!("{file}:{line}: {text}"));
                        continue;
                    }
                    if !again.same {
                        errors.push(format!("{file}:{line}: {text}"));
                    }
                }
                if errors.is_empty() {
                    rules.objects.push(Arc::clone(&one.object));
                    self.good.insert(one.id.clone(), Arc::clone(&one.object));
                    continue;
                }
                if valid.contains(&one.id) {
                    let instead = "the valid document of the same name applies";
                    let errors = errors.into_iter().map(|e| format!("{e}; {instead}"));
                    rules.problems.extend(errors);
                    continue;
                }
                let kept = self.good.get(&one.id);
                let instead = match (kept, &one.stand_in) {
                    (Some(_), _) => "its last good version stays in force",
                    (None, Some(_)) => "what it is about serves nothing",
                    (None, None) => "it is left out",
                };
                rules
                    .problems
                    .extend(errors.into_iter().map(|e| format!("{e}; {instead}")));
                match kept {
                    Some(kept) if applied.insert(one.id.clone()) => {
                        rules.objects.push(Arc::clone(kept));
                    }
                    Some(_) => {}
                    None => rules.objects.extend(one.stand_in.iter().cloned()),
                }
            }
        }
        for (path, why) in &reading.failed {
            rules.problems.push(format!(
                "{}: {why}; the last good versions of its objects stay in force",
                path.display()
            ));
        }
        rules.notes.extend(reading.ignored.iter().map(|folder| {
            let folder = folder.display();
            format!("{folder}: a folder in a rules folder is not read: name it as well")
        }));
        self.keep_unseen(&seen, reading, &mut rules);
        rules
    }

    /// Objects that are not there any more go, but for those that may be in what cannot be read.
    fn keep_unseen(&mut self, seen: &BTreeSet<Id>, reading: &Reading, rules: &mut RuleSet) {
        let broken = |source: &str| {
            let path = Path::new(source);
            let unread = reading
                .failed
                .iter()
                .any(|(failed, _)| path.starts_with(failed));
            unread
                || self
                    .read
                    .get(path)
                    .is_some_and(|(_, j)| !j.errors.is_empty())
        };
        self.good.retain(|id, object| {
            let unseen = !seen.contains(id);
            let stays = !unseen || broken(&object.source);
            if unseen && stays {
                rules.objects.push(Arc::clone(object));
            }
            stays
        });
    }

    fn tell(&mut self, rules: &RuleSet) {
        let were = !self.problems_told.is_empty();
        tell_new(&mut self.problems_told, &rules.problems, |line| {
            tracing::error!(problem = line, "rule not applied");
        });
        if were && rules.problems.is_empty() {
            tracing::info!("the rule files are valid again");
        }
        tell_new(&mut self.notes_told, &rules.notes, |line| {
            tracing::warn!("{line}");
        });
        if rules.objects.is_empty() {
            tracing::warn!("the rules are empty: every destination is denied");
        }
    }
}

/// Tells of the lines that the last load had not, and keeps those of this one.
fn tell_new(told: &mut BTreeSet<String>, lines: &[String], tell: impl Fn(&str)) {
    let new: Vec<_> = lines.iter().filter(|l| !told.contains(*l)).collect();
    for line in new.iter().take(LOGGED) {
        tell(line);
    }
    if new.len() > LOGGED {
        let more = new.len() - LOGGED;
        tell(&format!(
            "and {more} more lines on the rules: run egress-agent check"
        ));
    }
    *told = lines.iter().cloned().collect();
}

impl RuleSet {
    /// What is wrong in one line.
    fn problem(&self) -> Option<String> {
        let first = self.problems.first()?;
        let more = self.problems.len() - 1;
        Some(if more > 0 {
            format!("{first}; and {more} more: see egress-agent check")
        } else {
            first.clone()
        })
    }

    /// Looks for what the objects do together, once.
    fn find(&self) -> &[String] {
        self.findings.get_or_init(|| {
            if self.objects.len() > LINTED {
                return vec![format!(
                    "more than {LINTED} objects: findings across them are shown by egress-agent check only"
                )];
            }
            let findings = lint(&self.objects).into_iter();
            findings
                .filter_map(|f| {
                    let object = self.objects.get(f.object)?;
                    let field = f.message.field;
                    Some(format!(
                        "{}:{}: {field}: {}",
                        object.source, object.line, f.message.text
                    ))
                })
                .collect()
        })
    }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
