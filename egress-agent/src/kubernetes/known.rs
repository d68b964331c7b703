//! The objects of a kind that were reported: tells new from known and old news. Pure.

use super::meta::{Key, Metadata};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Known {
    objects: BTreeMap<Key, Held>,
    /// The newest resource version that was read.
    seen: String,
}

/// An object that was reported.
#[derive(Debug)]
struct Held {
    uid: String,
    version: String,
}

/// What an object changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing: it is known, or older than what is known.
    Nothing,
    /// It is new or has changed.
    Object,
    /// It is another object than that of this uid, which had its name.
    Instead(String),
}

impl Known {
    /// How many objects there are.
    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether a version is older than what was read.
    pub(super) fn is_behind(&self, version: &str) -> bool {
        compare(version, &self.seen) == Some(Ordering::Less)
    }

    /// Everything up to this version was read.
    pub(super) fn has_seen(&mut self, version: &str) {
        version.clone_into(&mut self.seen);
    }

    /// Takes an object. Those of a restored cluster are never too old.
    pub(super) fn put(&mut self, metadata: &Metadata, restored: bool) -> Change {
        let (uid, version) = (&metadata.uid, &metadata.resource_version);
        let key = metadata.key();
        let change = match self.objects.get(&key) {
            None => Change::Object,
            Some(held) if held.uid == *uid && held.version == *version => Change::Nothing,
            Some(held) if !restored && is_older(version, &held.version) => Change::Nothing,
            Some(held) if held.uid == *uid => Change::Object,
            Some(held) => Change::Instead(held.uid.clone()),
        };
        if change != Change::Nothing {
            let (uid, version) = (uid.clone(), version.clone());
            self.objects.insert(key, Held { uid, version });
        }
        change
    }

    /// Forgets an object. Returns whether it was known: the news may be about an older one of the same name.
    pub(super) fn remove(&mut self, metadata: &Metadata) -> bool {
        let key = metadata.key();
        let is_this = self.objects.get(&key).is_some_and(|held| {
            held.uid == metadata.uid && !is_older(&metadata.resource_version, &held.version)
        });
        is_this && self.objects.remove(&key).is_some()
    }

    /// Forgets all other objects. Returns their names and uids.
    pub(super) fn keep(&mut self, these: &BTreeSet<Key>) -> Vec<(Key, String)> {
        let gone = self.objects.extract_if(.., |key, _| !these.contains(key));
        gone.map(|(key, held)| (key, held.uid)).collect()
    }
}

fn is_older(version: &str, than: &str) -> bool {
    compare(version, than) == Some(Ordering::Less)
}

/// The order of two resource versions. They are decimal numbers of one sequence (KEP 5504); anything else has no order.
fn compare(one: &str, other: &str) -> Option<Ordering> {
    let number = |text: &str| text.parse::<u128>().ok();
    Some(number(one)?.cmp(&number(other)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, uid: &str, version: &str) -> Metadata {
        Metadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            resource_version: version.to_owned(),
            ..Metadata::default()
        }
    }

    #[test]
    fn only_newer_news_count() {
        let mut known = Known::default();
        let mut put = |uid, version| known.put(&object("a", uid, version), false);
        assert_eq!(put("1", "9"), Change::Object);
        assert_eq!(put("1", "9"), Change::Nothing);
        assert_eq!(put("1", "10"), Change::Object, "10 is more than 9");
        assert_eq!(put("1", "9"), Change::Nothing);
        assert_eq!(put("2", "11"), Change::Instead("1".to_owned()));
        assert_eq!(put("1", "10"), Change::Nothing, "the former object");
        assert_eq!(put("2", "x"), Change::Object, "no order: it counts");
    }

    #[test]
    fn the_deletion_of_a_former_object_removes_nothing() {
        let mut known = Known::default();
        known.put(&object("a", "2", "20"), false);
        assert!(!known.remove(&object("a", "1", "21")));
        assert!(!known.remove(&object("a", "2", "19")));
        assert!(!known.remove(&object("b", "2", "21")));
        assert!(known.remove(&object("a", "2", "21")));
        assert_eq!(known.len(), 0);
    }

    #[test]
    fn a_list_removes_what_it_lacks_and_a_restored_cluster_may_go_back() {
        let mut known = Known::default();
        known.put(&object("a", "1", "20"), false);
        known.put(&object("b", "2", "21"), false);
        known.has_seen("21");
        assert!(known.is_behind("20") && !known.is_behind("21") && !known.is_behind("x"));
        assert_eq!(known.put(&object("a", "1", "7"), true), Change::Object);
        let listed = [object("a", "", "").key()].into();
        let b = object("b", "", "").key();
        assert_eq!(known.keep(&listed), [(b, "2".to_owned())]);
    }
}
