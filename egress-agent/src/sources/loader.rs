//! Turns files into the objects in force, object by object: an invalid object is left out and reported, its last good
//! version stays in force, and the other objects apply.
//!
//! Keeps the files, so that after a change only the objects of that file are judged again. The verdict on an object
//! depends on every document of the same kind, namespace and name, and on its last good version. If no document
//! contains it any more, the verdict depends on whether its file can be read. `judge` judges one file.

use super::files::{Reading, SourceFile};
use super::judge::{Id, Judged, One, again, judge};
use super::objects::{Objects, Place};
use super::rule_set::{Line, RuleSet};
use egress_core::istio::Object;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Loader {
    files: BTreeMap<Arc<Path>, Held>,
    /// Documents that have an object, in the order of the files.
    documents: BTreeMap<Id, BTreeSet<(Arc<Path>, usize)>>,
    /// The last good version of each object.
    good: BTreeMap<Id, Arc<Object>>,
    /// The objects in `good` that no document contains.
    unseen: BTreeSet<Id>,
    objects: Objects,
    /// The messages about each file that has any.
    said: BTreeMap<Arc<Path>, Said>,
    /// The objects of the previous agent, until the first load.
    previous: Vec<Arc<Object>>,
}

/// A file.
#[derive(Debug)]
struct Held {
    digest: u64,
    judged: Judged,
    /// The outcome of each of its objects, in order.
    outcomes: Vec<Outcome>,
}

/// The outcome of one document of an object.
#[derive(Clone, Debug, Default)]
struct Outcome {
    problems: Vec<Line>,
    note: Option<Line>,
}

#[derive(Debug, Default)]
struct Said {
    problems: Vec<Line>,
    notes: Vec<Line>,
}

impl Loader {
    /// Starts with the objects that a previous agent had in force.
    pub(super) fn after(previous: Vec<Arc<Object>>) -> Self {
        let good: BTreeMap<Id, _> = previous
            .iter()
            .map(|o| (Id::of(o), Arc::clone(o)))
            .collect();
        Self {
            unseen: good.keys().cloned().collect(),
            good,
            previous,
            ..Self::default()
        }
    }

    /// Loads these files.
    pub(super) fn load(&mut self, reading: &Reading) -> RuleSet {
        let mut stale = BTreeSet::new();
        let mut affected = BTreeSet::new();
        let there: BTreeMap<&Path, &Arc<SourceFile>> = reading
            .files
            .iter()
            .map(|file| (file.path.as_path(), file))
            .collect();
        let gone = self.files.keys();
        let gone: Vec<_> = gone
            .filter(|p| !there.contains_key(&***p))
            .cloned()
            .collect();
        for path in gone {
            self.forget(&path, &mut affected);
            stale.insert(path);
        }
        for file in there.values() {
            let held = self.files.get(file.path.as_path());
            if held.is_none_or(|held| held.digest != file.digest()) {
                stale.insert(self.take(file, &mut affected));
            }
        }
        for id in affected {
            if self.documents.contains_key(&id) {
                self.unseen.remove(&id);
                self.objects.remove(&Place::Kept(id.clone()));
                self.settle(&id, &mut stale);
            } else if self.good.contains_key(&id) {
                self.unseen.insert(id);
            }
        }
        self.keep_unseen(reading);
        for path in stale {
            self.say(&path);
        }
        self.rules(reading)
    }

    /// Removes a file.
    fn forget(&mut self, path: &Arc<Path>, affected: &mut BTreeSet<Id>) -> Vec<One> {
        let Some(held) = self.files.remove(path) else {
            return Vec::new();
        };
        for (number, one) in held.judged.objects.iter().enumerate() {
            let place = (Arc::clone(path), number);
            if let Entry::Occupied(mut documents) = self.documents.entry(one.id.clone()) {
                documents.get_mut().remove(&place);
                if documents.get().is_empty() {
                    documents.remove();
                }
            }
            self.objects.remove(&Place::File(place.0, number));
            affected.insert(one.id.clone());
        }
        held.judged.objects
    }

    /// Adds a file, or replaces its former version.
    fn take(&mut self, file: &SourceFile, affected: &mut BTreeSet<Id>) -> Arc<Path> {
        let known = self.files.get_key_value(file.path.as_path());
        let path = known.map_or_else(|| file.path.as_path().into(), |(path, _)| Arc::clone(path));
        let before = self.forget(&path, affected);
        let mut judged = judge(file);
        reuse(&mut judged, before);
        for (number, one) in judged.objects.iter().enumerate() {
            let documents = self.documents.entry(one.id.clone()).or_default();
            documents.insert((Arc::clone(&path), number));
            affected.insert(one.id.clone());
        }
        let held = Held {
            digest: file.digest(),
            outcomes: vec![Outcome::default(); judged.objects.len()],
            judged,
        };
        self.files.insert(Arc::clone(&path), held);
        path
    }

    /// Decides which version of an object is in force, if documents contain it.
    fn settle(&mut self, id: &Id, stale: &mut BTreeSet<Arc<Path>>) {
        let places: Vec<_> = self
            .documents
            .get(id)
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let ones: Vec<One> = places
            .iter()
            .filter_map(|(path, number)| self.files.get(path)?.judged.objects.get(*number))
            .cloned()
            .collect();
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
            let (source, line) = (&one.object.source, one.object.line);
            let repeated = again.as_ref().filter(|_| errors.is_empty());
            let repeated =
                repeated.map(|again| format!("{source}:{line}: {}", again.text(&one.object)));
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
                    _ if one_is_enough => "the valid document of the same name applies",
                    (Some(_), _) => "its last good version stays in force",
                    (None, Some(_)) => "what it is about serves nothing",
                    (None, None) => "it is left out",
                };
                let problems = errors.into_iter().map(|e| format!("{e}; {instead}").into());
                outcome.problems = problems.collect();
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
            let held = self.files.get_mut(&path);
            if let Some(told) = held.and_then(|held| held.outcomes.get_mut(number)) {
                *told = outcome;
            }
            stale.insert(path);
        }
    }

    /// Removes objects that no document contains, except those that may be in files that cannot be read.
    fn keep_unseen(&mut self, reading: &Reading) {
        for id in std::mem::take(&mut self.unseen) {
            let Some(object) = self.good.get(&id) else {
                continue;
            };
            let source = Path::new(&object.source);
            let unread = reading
                .failed
                .iter()
                .any(|(path, _)| source.starts_with(path));
            let held = self.files.get(source);
            if unread || held.is_some_and(|held| !held.judged.errors.is_empty()) {
                self.objects
                    .put(Place::Kept(id.clone()), Arc::clone(object));
                self.unseen.insert(id);
            } else {
                self.good.remove(&id);
                self.objects.remove(&Place::Kept(id));
            }
        }
    }

    /// Collects the messages about a file.
    fn say(&mut self, path: &Arc<Path>) {
        let mut said = Said::default();
        if let Some(Held {
            judged, outcomes, ..
        }) = self.files.get(path)
        {
            said.problems
                .extend(judged.errors.iter().map(|e| e.as_str().into()));
            said.notes
                .extend(judged.notes.iter().map(|n| n.as_str().into()));
            for outcome in outcomes {
                said.problems.extend(outcome.problems.iter().cloned());
                said.notes.extend(outcome.note.iter().cloned());
            }
        }
        if said.problems.is_empty() && said.notes.is_empty() {
            self.said.remove(path);
        } else {
            self.said.insert(Arc::clone(path), said);
        }
    }

    fn rules(&mut self, reading: &Reading) -> RuleSet {
        let said = || self.said.values();
        let failed = reading.failed.iter().map(|(path, why)| {
            let path = path.display();
            format!("{path}: {why}; the last good versions of its objects stay in force").into()
        });
        let ignored = reading.ignored.iter().map(|folder| {
            let folder = folder.display();
            format!("{folder}: a folder in a rules folder is not read: name it as well").into()
        });
        RuleSet {
            objects: self.objects.clone(),
            problems: said()
                .flat_map(|s| s.problems.iter().cloned())
                .chain(failed)
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

/// Keeps the `Arc`s of unchanged objects in a file. By them, other code recognises objects that it need not check
/// again.
fn reuse(judged: &mut Judged, before: Vec<One>) {
    for (new, old) in judged.objects.iter_mut().zip(before) {
        let (one, other) = (&new.object, &old.object);
        let same = new.id == old.id
            && (one.document, one.line, one.text_line)
                == (other.document, other.line, other.text_line)
            && one.text == other.text
            && new.errors == old.errors;
        if same {
            *new = old;
        }
    }
}

#[cfg(test)]
#[path = "loader_tests.rs"]
mod tests;
