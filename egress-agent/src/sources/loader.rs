//! Turns files into the objects in force, object by object: an invalid object is left out and reported, its last good
//! version stays in force, and the other objects apply.
//!
//! After a change only the objects of that file are judged again (`held`). The verdict on an object depends on every
//! document of the same kind, namespace and name, and on its last good version. If no document contains it any more,
//! the verdict depends on whether its file can be read. `judge` judges one file.

use super::files::Reading;
use super::held::{Change, Document, Held, HeldFiles, Outcome};
use super::judge::{Id, One, again};
use super::loaded_secrets::LoadedSecrets;
use super::objects::{Objects, Place};
use super::refusals::Refusal;
use super::rule_set::{Instead, Line, RejectedDocuments, RuleSet};
use super::store::Previous;
use super::versions::Versions;
use egress_core::istio::{Object, RuleName, is_api};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Loader {
    held: HeldFiles,
    /// The last good version of each object.
    good: BTreeMap<Id, Arc<Object>>,
    /// The objects in `good` that no document contains.
    unseen: BTreeSet<Id>,
    objects: Objects,
    secrets: LoadedSecrets,
    /// The versions of the API's objects in the last reading that was loaded as a whole.
    api: Versions,
    /// The messages about each file that has any.
    said: BTreeMap<Arc<Path>, Said>,
    /// The rules of the previous agent, until the first load.
    before: Previous,
    /// Their objects, until these are given out.
    previous: Vec<Arc<Object>>,
}

#[derive(Debug, Default)]
struct Said {
    problems: Vec<Line>,
    notes: Vec<Line>,
    rejected: RejectedDocuments,
    refused: Vec<(RuleName, Refusal)>,
}

/// Whether a path stands for an object, or for a kind, of the Kubernetes API.
fn of_api(path: &Path) -> bool {
    path.to_str().is_some_and(is_api)
}

/// That the API's version of an object is not in force.
fn refusal(object: &Object, errors: &[String], lines: Vec<Line>) -> (RuleName, Refusal) {
    let refusal = Refusal {
        generation: object.generation,
        errors: errors.iter().map(|error| error.as_str().into()).collect(),
        lines,
    };
    (RuleName::of(object), refusal)
}

impl Loader {
    /// Starts with the rules that a previous agent had in force.
    pub(super) fn restoring(before: Previous) -> Self {
        Self {
            before,
            ..Self::default()
        }
    }

    /// Starts with these last good versions.
    pub(super) fn after(good: Vec<Arc<Object>>) -> Self {
        let mut new = Self::default();
        new.keep_good(good);
        new
    }

    fn keep_good(&mut self, good: Vec<Arc<Object>>) {
        let ids = || good.iter().map(|o| Id::of(o));
        self.unseen.extend(ids());
        self.good.extend(ids().zip(good.iter().cloned()));
        self.previous = good;
    }

    /// Takes the objects of the previous agent. Those whose documents are the same in the files were decoded with them.
    fn restore(&mut self) {
        if self.before.is_empty() {
            return;
        }
        let mut decoded: BTreeMap<(&str, u32), Vec<&One>> = BTreeMap::new();
        for one in self.held.all() {
            let place = (one.object.source.as_str(), one.object.text_line);
            decoded.entry(place).or_default().push(one);
        }
        let valid = |source: &str, line: u32, text: &str| {
            let ones = decoded.get(&(source, line))?;
            let same = |one: &One| one.errors.is_empty() && *one.object.text == *text;
            let same = ones.iter().all(|one| same(one));
            same.then(|| ones.iter().map(|one| Arc::clone(&one.object)).collect())
        };
        let good = std::mem::take(&mut self.before).objects(valid);
        drop(decoded);
        self.keep_good(good);
    }

    /// Loads these files.
    pub(super) fn load(&mut self, reading: &Reading) -> RuleSet {
        self.change(reading, usize::MAX);
        self.rules(reading)
    }

    /// Whether files wait for another call of [`Self::load_some`].
    pub(super) fn waits(&self) -> bool {
        self.held.waits()
    }

    /// Loads these files, about `most` bytes at a time of new files that may wait. Other changes come first. `None` if
    /// nothing is in force that was not before.
    pub(super) fn load_some(&mut self, reading: &Reading, most: usize) -> Option<RuleSet> {
        let waits = self.change(reading, most) && reading.failed.is_empty();
        (!waits).then(|| self.rules(reading))
    }

    /// Returns whether nothing but files that wait changed.
    fn change(&mut self, reading: &Reading, most: usize) -> bool {
        let Change {
            affected,
            removed,
            mut stale,
            waits,
        } = self.held.update(reading, most, self.unseen.is_empty());
        for (path, number) in removed {
            self.objects.remove(&Place::File(path, number));
        }
        self.restore();
        for id in affected {
            if self.held.has(&id) && !self.is_withheld(&id, reading) {
                self.unseen.remove(&id);
                self.objects.remove(&Place::Kept(id.clone()));
                self.settle(&id, &mut stale);
            } else if self.good.contains_key(&id) {
                self.unseen.insert(id);
            }
        }
        self.keep_unseen(reading, &mut stale);
        self.secrets.load(self.held.files(), reading);
        for path in stale {
            self.say(&path);
        }
        waits
    }

    /// Decides which version of an object is in force, if documents contain it.
    fn settle(&mut self, id: &Id, stale: &mut BTreeSet<Arc<Path>>) {
        let (of_files, others): (Vec<_>, Vec<_>) = self
            .held
            .documents_of(id)
            .partition(|(document, _)| !of_api(&document.0));
        let documents = if let Some((_, one)) = of_files.first() {
            let instead = format!("the one in {} applies", one.object.source);
            self.outweigh(others, &instead, stale);
            of_files
        } else {
            others
        };
        let (places, ones): (Vec<_>, Vec<One>) = documents.into_iter().unzip();
        let valid = || ones.iter().filter(|one| one.errors.is_empty());
        let again = again(&valid().map(|one| &*one.object).collect::<Vec<_>>());
        let differs = again.as_ref().is_some_and(|again| !again.same);
        let one_is_enough = valid().next().is_some() && !differs;
        // Of several documents one is in force, or the last good version at the place of the first.
        let mut applied = false;
        for ((path, number), one) in places.into_iter().zip(&ones) {
            let mut outcome = Outcome::default();
            let mut errors = one.errors.clone();
            let mut object = None;
            let place = one.object.place();
            let repeated = again.as_ref().filter(|_| errors.is_empty());
            let repeated = repeated.map(|again| format!("{place}: {}", again.text(&one.object)));
            if differs {
                errors.extend(repeated.iter().cloned());
            }
            if errors.is_empty() {
                if applied {
                    outcome.note = repeated.map(Line::from);
                } else {
                    object = Some(Arc::clone(&one.object));
                    self.good.insert(id.clone(), Arc::clone(&one.object));
                    applied = true;
                }
            } else {
                let kept = self.good.get(id);
                let instead = match (kept, &one.stand_in) {
                    _ if one_is_enough => Instead::Other,
                    (Some(_), _) => Instead::LastGood,
                    (None, Some(_)) => Instead::Denied,
                    (None, None) => Instead::LeftOut,
                };
                outcome.rejected = Some((one.object.kind, instead));
                let instead = match instead {
                    Instead::Other => "the valid document of the same name applies",
                    Instead::LastGood => "its last good version stays in force",
                    Instead::Denied => "what it is about serves nothing",
                    Instead::LeftOut => "it is left out",
                };
                let problems = errors.iter().map(|e| format!("{e}; {instead}").into());
                outcome.problems = problems.collect();
                outcome.refused = of_api(&path).then(|| {
                    let lines = outcome.problems.clone();
                    refusal(&one.object, &errors, lines)
                });
                object = match kept {
                    _ if one_is_enough => None,
                    Some(kept) => (!applied).then(|| Arc::clone(kept)),
                    None => one.stand_in.clone(),
                };
                applied |= kept.is_some() && !one_is_enough;
            }
            let place = Place::File(Arc::clone(&path), number);
            match object {
                Some(object) => self.objects.put(place, object),
                None => self.objects.remove(&place),
            }
            self.held.set_outcome(&path, number, outcome);
            stale.insert(path);
        }
    }

    /// Documents of the API whose object is in a file too: files are the node's administrator's.
    fn outweigh(
        &mut self,
        documents: Vec<(Document, One)>,
        instead: &str,
        stale: &mut BTreeSet<Arc<Path>>,
    ) {
        for ((path, number), one) in documents {
            let (place, object) = (one.object.place(), &one.object);
            let note = format!("{place}: a rule file has {object} too; {instead}");
            let note: Line = note.into();
            let outcome = Outcome {
                refused: Some(refusal(object, &one.errors, vec![Arc::clone(&note)])),
                note: Some(note),
                ..Outcome::default()
            };
            self.objects.remove(&Place::File(Arc::clone(&path), number));
            self.held.set_outcome(&path, number, outcome);
            stale.insert(path);
        }
    }

    /// Whether this version of an object may be in a file that cannot be read at the moment.
    fn is_unread(&self, object: &Object, reading: &Reading) -> bool {
        let source = Path::new(&object.source);
        let mut failed = reading.failed.iter();
        let held = || self.held.get(source);
        failed.any(|(path, _)| source.starts_with(path))
            || held().is_some_and(|held| !held.judged.errors.is_empty())
    }

    /// Whether only the API has an object at the moment whose last good version is in a file that cannot be read.
    fn is_withheld(&self, id: &Id, reading: &Reading) -> bool {
        let good = self.good.get(id).filter(|good| !is_api(&good.source));
        good.is_some_and(|good| self.is_unread(good, reading))
            && self
                .held
                .documents_of(id)
                .all(|((path, _), _)| of_api(&path))
    }

    /// Removes objects that no document contains, except those that may be in files that cannot be read.
    fn keep_unseen(&mut self, reading: &Reading, stale: &mut BTreeSet<Arc<Path>>) {
        for id in std::mem::take(&mut self.unseen) {
            let Some(object) = self.good.get(&id) else {
                continue;
            };
            if self.is_unread(object, reading) {
                let object = Arc::clone(object);
                let withheld = self.held.documents_of(&id).collect();
                let instead = format!(
                    "its last good version, of {}, stays in force",
                    object.source
                );
                self.outweigh(withheld, &instead, stale);
                self.objects.put(Place::Kept(id.clone()), object);
                self.unseen.insert(id);
            } else {
                self.good.remove(&id);
                self.objects.remove(&Place::Kept(id.clone()));
                self.settle(&id, stale);
            }
        }
    }

    /// Collects the messages about a file.
    fn say(&mut self, path: &Arc<Path>) {
        let mut said = Said::default();
        if let Some(Held {
            judged, outcomes, ..
        }) = self.held.get(path)
        {
            said.problems
                .extend(judged.errors.iter().map(|e| e.as_str().into()));
            said.notes
                .extend(judged.notes.iter().map(|n| n.as_str().into()));
            for outcome in outcomes {
                said.problems.extend(outcome.problems.iter().cloned());
                said.notes.extend(outcome.note.iter().cloned());
                if let Some(rejected) = outcome.rejected {
                    *said.rejected.entry(rejected).or_default() += 1;
                }
                said.refused.extend(outcome.refused.clone());
            }
        }
        if said.problems.is_empty() && said.notes.is_empty() {
            self.said.remove(path);
        } else {
            self.said.insert(Arc::clone(path), said);
        }
    }

    fn rules(&mut self, reading: &Reading) -> RuleSet {
        if !self.waits() {
            self.api.clone_from(&reading.api);
        }
        let said = || self.said.values();
        // Of an API that gives no list, `status` shows the state. It is a problem only if objects depend on it.
        let matters = |path: &Path| {
            let mut kept = self.unseen.iter().filter_map(|id| self.good.get(id));
            !of_api(path) || kept.any(|object| Path::new(&object.source).starts_with(path))
        };
        let failed = reading.failed.iter().filter(|(path, _)| matters(path));
        let failed = failed.map(|(path, why)| {
            let path = path.display();
            format!("{path}: {why}; the last good versions of its objects stay in force").into()
        });
        let ignored = reading.ignored.iter().map(|folder| {
            let folder = folder.display();
            format!("{folder}: a folder in a rules folder is not read: name it as well").into()
        });
        let mut rejected = RejectedDocuments::new();
        for (which, documents) in said().flat_map(|s| &s.rejected) {
            *rejected.entry(*which).or_default() += documents;
        }
        RuleSet {
            kinds: self.objects.kinds(),
            objects: self.objects.clone(),
            rejected,
            api: self.api.clone(),
            refused: Arc::new(said().flat_map(|s| s.refused.iter().cloned()).collect()),
            noticed: reading.noticed.0,
            secrets: self.secrets.in_force(),
            problems: said()
                .flat_map(|s| s.problems.iter().cloned())
                .chain(failed)
                .chain(self.secrets.problems())
                .collect(),
            notes: said()
                .flat_map(|s| s.notes.iter().cloned())
                .chain(ignored)
                .collect(),
            findings: Arc::default(),
            previous: std::mem::take(&mut self.previous),
        }
    }
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
