//! The objects in force, in the order of their files. A copy shares unchanged parts with its original,
//! so the difference between two sets is found without comparing the rest.
//!
//! Does not know how an object is judged or what it means.

use super::judge::Id;
use egress_core::istio::{Kind, Object};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The source of an object in force. Messages have this order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A file, and the object's number in it.
    File(Arc<Path>, usize),
    /// No document: the last good version of an object whose file cannot be read.
    Kept(Id),
}

/// An object. Two are equal if they are the same in memory.
#[derive(Clone, Debug)]
struct Held(Arc<Object>);

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Objects(OrdMap<Place, Held>);

/// The difference between a set and an earlier one. An object that only moved is in both lists.
#[derive(Debug, Default)]
pub struct Difference {
    /// Objects that the earlier set does not have at this place.
    pub added: Vec<Arc<Object>>,
    /// Objects that only the earlier set has at this place.
    pub gone: Vec<Arc<Object>>,
}

impl Objects {
    /// The objects of a previous agent, which have no file yet.
    pub(crate) fn kept(objects: impl Iterator<Item = Arc<Object>>) -> Self {
        let placed = objects.map(|o| (Place::Kept(Id::of(&o)), Held(o)));
        Self(placed.collect())
    }

    pub(super) fn put(&mut self, place: Place, object: Arc<Object>) {
        self.0.insert(place, Held(object));
    }

    pub(super) fn remove(&mut self, place: &Place) {
        self.0.remove(place);
    }

    /// The number of objects.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All objects, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.0.values().map(|held| &held.0)
    }

    /// The number of objects of each kind.
    pub fn kinds(&self) -> BTreeMap<Kind, usize> {
        let mut kinds = BTreeMap::new();
        for object in self.iter() {
            *kinds.entry(object.kind).or_default() += 1;
        }
        kinds
    }

    /// All objects in a list.
    pub fn to_vec(&self) -> Vec<Arc<Object>> {
        self.iter().cloned().collect()
    }

    /// The difference from an earlier set.
    pub fn since(&self, earlier: &Self) -> Difference {
        let mut difference = Difference::default();
        for item in earlier.0.diff(&self.0) {
            let (old, new) = match item {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Remove(_, old) => (Some(old), None),
                DiffItem::Update { old, new } => (Some(old.1), Some(new.1)),
            };
            difference.gone.extend(old.map(|held| Arc::clone(&held.0)));
            difference.added.extend(new.map(|held| Arc::clone(&held.0)));
        }
        difference
    }
}
