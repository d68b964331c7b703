//! The files as far as they are loaded, and the files that each object is in.
//!
//! Owns in which order files are loaded. Does not know which version of an object is in force.

use super::backlog::{Backlog, Touched, may_wait};
use super::files::{Reading, SourceFile};
use super::judge::{Id, Judged, One, judge_all};
use super::refusals::Refusal;
use super::rule_set::{Instead, Line};
use egress_core::istio::{Kind, Object, RuleName};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::thread;

/// Files with more bytes are judged by several threads.
const LARGE: usize = 256 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct HeldFiles {
    files: BTreeMap<Arc<Path>, Held>,
    /// Documents that have an object, in the order of the files.
    documents: BTreeMap<Id, BTreeSet<Document>>,
    backlog: Backlog,
}

/// A document: its file, and its number among the objects of the file.
pub(super) type Document = (Arc<Path>, usize);

/// What an update changed.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Objects of changed files.
    pub(super) affected: BTreeSet<Id>,
    /// Documents that are gone.
    pub(super) removed: Vec<Document>,
    /// Changed files.
    pub(super) stale: BTreeSet<Arc<Path>>,
    /// Nothing but files that wait changed.
    pub(super) waits: bool,
}

/// A file.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// `None` until all of the file is loaded.
    digest: Option<u64>,
    pub(super) judged: Judged,
    /// The outcome of each of its objects, in order.
    pub(super) outcomes: Vec<Outcome>,
}

/// The outcome of one document of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) problems: Vec<Line>,
    pub(super) note: Option<Line>,
    /// The document is not in force; this is what is.
    pub(super) rejected: Option<(Kind, Instead)>,
    /// The same of an object of the API, whatever the reason.
    pub(super) refused: Option<(RuleName, Refusal)>,
}

impl HeldFiles {
    /// Whether files wait for another update.
    pub(super) fn waits(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// A file.
    pub(super) fn get(&self, path: &Path) -> Option<&Held> {
        self.files.get(path)
    }

    /// Every file.
    pub(super) fn files(&self) -> impl Iterator<Item = (&Arc<Path>, &Judged)> {
        let files = self.files.iter();
        files.map(|(path, held)| (path, &held.judged))
    }

    /// Every document.
    pub(super) fn all(&self) -> impl Iterator<Item = &One> {
        self.files.values().flat_map(|held| &held.judged.objects)
    }

    /// Whether a document has this object.
    pub(super) fn has(&self, id: &Id) -> bool {
        self.documents.contains_key(id)
    }

    /// The documents that have an object, in the order of the files.
    pub(super) fn documents_of(&self, id: &Id) -> impl Iterator<Item = (Document, One)> {
        let documents = self.documents.get(id).into_iter().flatten();
        documents.filter_map(|document| {
            let held = self.files.get(&document.0)?;
            let one = held.judged.objects.get(document.1)?;
            Some((document.clone(), one.clone()))
        })
    }

    /// Notes the outcome of a document.
    pub(super) fn set_outcome(&mut self, path: &Path, number: usize, outcome: Outcome) {
        let held = self.files.get_mut(path);
        if let Some(told) = held.and_then(|held| held.outcomes.get_mut(number)) {
            *told = outcome;
        }
    }

    /// Loads changed files, but not more than about `most` bytes of new files that may wait. `may_wait_here`: there is
    /// no other reason against it.
    pub(super) fn update(&mut self, reading: &Reading, most: usize, may_wait_here: bool) -> Change {
        let mut change = Change::default();
        let mut touched = Touched::default();
        // Of thousands of files one has changed. Paths are compared as bytes, because comparing their components takes
        // most of the time otherwise.
        let there: HashMap<&OsStr, &Arc<SourceFile>> = reading
            .files
            .iter()
            .map(|file| (file.path.as_os_str(), file))
            .collect();
        let gone = self.files.keys();
        let gone: Vec<_> = gone
            .filter(|path| !there.contains_key(path.as_os_str()))
            .cloned()
            .collect();
        self.backlog.keep(&there);
        let held: HashMap<&OsStr, Option<u64>> = self
            .files
            .iter()
            .map(|(path, held)| (path.as_os_str(), held.digest))
            .collect();
        let changed = |file: &&Arc<SourceFile>| {
            held.get(file.path.as_os_str()) != Some(&Some(file.digest())) && !self.backlog.has(file)
        };
        let mut changed: Vec<_> = reading.files.iter().filter(changed).collect();
        changed.sort_by(|a, b| a.path.cmp(&b.path));
        let bytes: usize = changed.iter().map(|file| file.text.len()).sum();
        let new = |file: &&Arc<SourceFile>| {
            !self.files.contains_key(file.path.as_path()) && may_wait(file)
        };
        // Objects that are kept for want of a document must not be removed before their new file is loaded.
        let adds = gone.is_empty() && may_wait_here && changed.iter().all(new);
        let wait = adds && bytes > most;
        let nothing = gone.is_empty() && changed.is_empty();
        let overtakes = !wait && !nothing;
        for path in &gone {
            let before = self.forget(path, &mut change);
            touched.add(&objects(&before), &[]);
        }
        if wait {
            for file in changed {
                self.backlog.add(file);
            }
        } else {
            // Only the start has nothing else to do meanwhile.
            let alone = most == usize::MAX && bytes > LARGE;
            let threads = thread::available_parallelism().map_or(1, usize::from);
            let judged = judge_all(&changed, if alone { threads } else { 1 });
            for (file, judged) in changed.into_iter().zip(judged) {
                self.take(file, judged, &mut change, &mut touched);
            }
        }
        change.stale.extend(gone);
        let most = match overtakes {
            true if self.backlog.lets_overtake(&touched) => 0,
            true => usize::MAX,
            false => most,
        };
        self.take_waiting(most, &mut change);
        change.waits = !overtakes && change.stale.is_empty() && self.waits();
        change
    }

    /// Removes a file.
    fn forget(&mut self, path: &Arc<Path>, change: &mut Change) -> Vec<One> {
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
            change.removed.push(place);
            change.affected.insert(one.id.clone());
        }
        held.judged.objects
    }

    /// Adds a file, or replaces its former version.
    fn take(
        &mut self,
        file: &SourceFile,
        mut judged: Judged,
        change: &mut Change,
        touched: &mut Touched,
    ) {
        let path = self.path(file);
        let before = self.forget(&path, change);
        let old = objects(&before);
        reuse(&mut judged, before);
        touched.add(&old, &judged.objects);
        self.add(&path, judged, change).digest = Some(file.digest());
        change.stale.insert(path);
    }

    /// Adds about `most` bytes of the files that wait, once all of them are judged.
    fn take_waiting(&mut self, most: usize, change: &mut Change) {
        if most == 0 || !self.backlog.judge(most) {
            return;
        }
        let documents = &self.documents;
        let known = |one: &One| documents.contains_key(&one.id);
        for part in self.backlog.next(most, known) {
            let path = self.path(&part.file);
            let held = self.add(&path, part.judged, change);
            held.digest = part.is_last.then(|| part.file.digest());
            change.stale.insert(path);
        }
    }

    fn path(&self, file: &SourceFile) -> Arc<Path> {
        let known = self.files.get_key_value(file.path.as_path());
        known.map_or_else(|| file.path.as_path().into(), |(path, _)| Arc::clone(path))
    }

    /// Adds documents at the end of a file.
    fn add(&mut self, path: &Arc<Path>, judged: Judged, change: &mut Change) -> &mut Held {
        let held = self.files.entry(Arc::clone(path)).or_default();
        for (one, number) in judged.objects.iter().zip(held.outcomes.len()..) {
            let documents = self.documents.entry(one.id.clone()).or_default();
            documents.insert((Arc::clone(path), number));
            change.affected.insert(one.id.clone());
        }
        let count = held.outcomes.len() + judged.objects.len();
        held.outcomes.resize_with(count, Outcome::default);
        held.judged.extend(judged);
        held
    }
}

fn objects(ones: &[One]) -> Vec<Arc<Object>> {
    ones.iter().map(|one| Arc::clone(&one.object)).collect()
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
