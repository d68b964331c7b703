//! The objects of the Kubernetes API by kind, as files.
//!
//! A kind that the server does not list stays as it was. Until its first list since the start it counts as unreadable,
//! so that the last good versions of its objects stay in force. So do all kinds until there is an answer about each:
//! objects of one kind may narrow those of another. Talks to no server.

use super::object::folder;
use crate::sources::SourceFile;
use crate::sources::files::{Reading, Unreadable};
use crate::sources::versions::Digest;
use egress_core::istio::Kind;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most bytes of all objects together. More than this fits neither into memory nor into the copy on disk.
const MAX_BYTES: usize = 64 << 20;

/// The kinds in the order of their folders, so that a reading stays sorted: paths of files are absolute, which come
/// first.
const BY_FOLDER: [Kind; 5] = [
    Kind::DestinationRule,
    Kind::ServiceEntry,
    Kind::Sidecar,
    Kind::VirtualService,
    Kind::WorkloadEntry,
];

/// The objects do not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the objects have more than {} MiB; the previous ones stay in force", MAX_BYTES >> 20)]
pub(super) struct TooLarge;

/// An object as a file, and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Versioned {
    pub(super) file: Arc<SourceFile>,
    pub(super) version: Digest,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Kinds {
    kinds: BTreeMap<Kind, Held>,
    bytes: usize,
}

/// A kind.
#[derive(Debug)]
struct Held {
    files: BTreeMap<PathBuf, Versioned>,
    /// The versions of its objects.
    versions: Digest,
    /// The server has listed it since the start.
    listed: bool,
    /// The server does not serve it.
    not_served: bool,
}

impl Kinds {
    pub(super) fn new() -> Self {
        let held = || Held {
            files: BTreeMap::new(),
            versions: Digest::default(),
            listed: false,
            not_served: false,
        };
        Self {
            kinds: Kind::ALL.into_iter().map(|kind| (kind, held())).collect(),
            bytes: 0,
        }
    }

    /// Takes a whole list. Returns whether it changes an object.
    pub(super) fn replace(
        &mut self,
        kind: Kind,
        objects: Vec<Versioned>,
    ) -> Result<bool, TooLarge> {
        let Some(held) = self.kinds.get_mut(&kind) else {
            return Ok(false);
        };
        let size = |files: &BTreeMap<PathBuf, Versioned>| -> usize {
            files.values().map(|one| one.file.text.len()).sum()
        };
        let mut new = BTreeMap::new();
        for mut one in objects {
            let same = held.files.get(&one.file.path);
            if let Some(same) = same.filter(|same| same.file == one.file) {
                one.file = Arc::clone(&same.file);
            }
            new.insert(one.file.path.clone(), one);
        }
        let bytes = self.bytes - size(&held.files) + size(&new);
        if bytes > MAX_BYTES {
            return Err(TooLarge);
        }
        self.bytes = bytes;
        let changed = !held.listed || held.files != new;
        held.listed = true;
        held.not_served = false;
        let versions = new.values().map(|one| one.version);
        held.versions = versions.fold(Digest::default(), Digest::with);
        held.files = new;
        Ok(changed)
    }

    /// Adds or replaces an object. Returns whether that changes it.
    pub(super) fn put(&mut self, kind: Kind, mut new: Versioned) -> Result<bool, TooLarge> {
        let Some(held) = self.kinds.get_mut(&kind) else {
            return Ok(false);
        };
        let before = held.files.get(&new.file.path);
        if before == Some(&new) {
            return Ok(false);
        }
        let of_before = before.map_or(0, |one| one.file.text.len());
        let bytes = self.bytes - of_before + new.file.text.len();
        if bytes > MAX_BYTES {
            return Err(TooLarge);
        }
        self.bytes = bytes;
        if let Some(before) = before {
            held.versions = held.versions.without(before.version);
            if before.file == new.file {
                new.file = Arc::clone(&before.file);
            }
        }
        held.versions = held.versions.with(new.version);
        held.files.insert(new.file.path.clone(), new);
        Ok(true)
    }

    /// Removes an object. Returns whether there was one.
    pub(super) fn remove(&mut self, kind: Kind, path: &Path) -> bool {
        let Some(held) = self.kinds.get_mut(&kind) else {
            return false;
        };
        let Some(gone) = held.files.remove(path) else {
            return false;
        };
        held.versions = held.versions.without(gone.version);
        self.bytes -= gone.file.text.len();
        true
    }

    /// The server does not serve a kind. Returns whether that is new.
    pub(super) fn not_served(&mut self, kind: Kind) -> bool {
        let held = self.kinds.get_mut(&kind);
        held.is_some_and(|held| !std::mem::replace(&mut held.not_served, true))
    }

    /// The kinds that the server has neither listed nor denied to serve.
    pub(super) fn unanswered(&self) -> impl Iterator<Item = Kind> {
        let unanswered = self.kinds.iter();
        unanswered
            .filter(|(_, held)| !held.listed && !held.not_served)
            .map(|(kind, _)| *kind)
    }

    /// The same, and all kinds while none is listed.
    pub(super) fn missing(&self) -> Vec<Kind> {
        let any = self.kinds.values().any(|held| held.listed);
        let missing = |held: &Held| !held.listed && (!any || !held.not_served);
        let missing = self.kinds.iter().filter(|(_, held)| missing(held));
        missing.map(|(kind, _)| *kind).collect()
    }

    /// Adds the files.
    pub(super) fn add_to(&self, reading: &mut Reading) {
        let complete = self.unanswered().next().is_none();
        for kind in BY_FOLDER {
            match self.kinds.get(&kind).filter(|held| complete && held.listed) {
                Some(held) => {
                    let files = held.files.values();
                    reading.files.extend(files.map(|one| Arc::clone(&one.file)));
                    reading.api.insert(kind, held.versions);
                }
                None => reading.failed.push((folder(kind), Unreadable::NotListed)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_kind(kind: Kind, name: &str, text: &str) -> Versioned {
        let path = folder(kind).join("shop").join(name);
        Versioned {
            file: Arc::new(SourceFile::new(path, text.to_owned())),
            version: Digest::of(name, 1),
        }
    }

    fn file(name: &str, text: &str) -> Versioned {
        of_kind(Kind::Sidecar, name, text)
    }

    fn seen(kinds: &Kinds) -> (Vec<String>, usize) {
        let mut reading = Reading::default();
        kinds.add_to(&mut reading);
        let texts = reading.files.iter().map(|file| file.text.clone());
        (texts.collect(), reading.failed.len())
    }

    /// Kinds of which only Sidecar waits for its list.
    fn others() -> Kinds {
        let mut kinds = Kinds::new();
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Sidecar) {
            assert_eq!(
                kinds.replace(kind, Vec::new()),
                Ok(true),
                "an empty list is one"
            );
        }
        kinds
    }

    #[test]
    fn a_reading_stays_sorted() {
        let mut kinds = Kinds::new();
        let mut reading = Reading::default();
        reading
            .files
            .push(Arc::new(SourceFile::new("/r/z.yaml".into(), String::new())));
        for kind in Kind::ALL {
            let file = |name: &str| of_kind(kind, name, "");
            assert_eq!(
                kinds.replace(kind, vec![file("b"), file("a-b"), file("a")]),
                Ok(true)
            );
        }
        kinds.add_to(&mut reading);
        assert_eq!(reading.files.len(), 16);
        assert!(
            reading.files.is_sorted_by(|a, b| a.path < b.path),
            "{reading:?}"
        );
    }

    #[test]
    fn no_kind_is_in_force_before_there_is_an_answer_about_each() {
        let mut kinds = Kinds::new();
        assert_eq!(kinds.replace(Kind::Sidecar, vec![file("a", "1")]), Ok(true));
        assert_eq!(seen(&kinds), (Vec::new(), 5));
        for kind in Kind::ALL {
            assert!(kinds.not_served(kind));
        }
        assert_eq!(seen(&kinds), (vec!["1".to_owned()], 4));
    }

    #[test]
    fn a_kind_stays_as_it_was_while_it_is_not_served() {
        let mut kinds = others();
        assert_eq!(seen(&kinds), (Vec::new(), 5));
        let both = || vec![file("b", "2"), file("a", "1")];
        assert_eq!(kinds.replace(Kind::Sidecar, both()), Ok(true));
        assert_eq!(kinds.replace(Kind::Sidecar, both()), Ok(false));
        assert!(kinds.not_served(Kind::Sidecar) && !kinds.not_served(Kind::Sidecar));
        assert_eq!(seen(&kinds), (vec!["1".to_owned(), "2".to_owned()], 0));
        assert_eq!(kinds.put(Kind::Sidecar, file("a", "1")), Ok(false));
        assert_eq!(kinds.put(Kind::Sidecar, file("a", "3")), Ok(true));
        assert!(kinds.remove(Kind::Sidecar, &file("b", "").file.path));
        assert!(!kinds.remove(Kind::Sidecar, &file("b", "").file.path));
        assert_eq!(seen(&kinds), (vec!["3".to_owned()], 0));
        assert_eq!(kinds.bytes, 1);
    }

    #[test]
    fn the_versions_are_those_of_the_present_objects() {
        let mut kinds = others();
        let versions = |kinds: &Kinds| {
            let mut reading = Reading::default();
            kinds.add_to(&mut reading);
            reading.api.get(&Kind::Sidecar).copied()
        };
        assert_eq!(versions(&kinds), None, "not listed");
        let list = vec![file("a", "1"), file("b", "2")];
        assert_eq!(kinds.replace(Kind::Sidecar, list), Ok(true));
        let (a, b) = (Digest::of("a", 1), Digest::of("b", 1));
        assert_eq!(versions(&kinds), Some(a.with(b)));
        let edited = Versioned {
            version: Digest::of("a", 2),
            ..file("a", "1")
        };
        assert_eq!(kinds.put(Kind::Sidecar, edited), Ok(true), "the same text");
        assert!(kinds.remove(Kind::Sidecar, &file("b", "").file.path));
        assert_eq!(versions(&kinds), Some(Digest::of("a", 2)));
    }

    #[test]
    fn more_than_fits_changes_nothing() {
        let mut kinds = others();
        assert_eq!(kinds.replace(Kind::Sidecar, vec![file("a", "1")]), Ok(true));
        let large = || file("b", &"x".repeat(MAX_BYTES));
        assert_eq!(kinds.put(Kind::Sidecar, large()), Err(TooLarge));
        assert_eq!(
            kinds.replace(Kind::Sidecar, vec![file("a", "1"), large()]),
            Err(TooLarge)
        );
        assert_eq!((seen(&kinds), kinds.bytes), ((vec!["1".to_owned()], 0), 1));
    }
}
