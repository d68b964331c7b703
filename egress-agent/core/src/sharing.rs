//! Makes persistent maps with nearly the same content share their nodes again.
//!
//! A copy shares its nodes with the original until one of them changes. If both change in the same way, each gets its
//! own nodes, although the content is the same.

use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

/// Replaces a map by a copy of another one, changed where the two differ. Equal values are then those of the other map.
/// Does nothing if more than half of the entries differ.
pub(crate) fn share<K: Ord + Clone, V: PartialEq + Clone>(
    map: &mut OrdMap<K, V>,
    other: &OrdMap<K, V>,
) {
    let mut like = other.clone();
    let most = map.len().max(other.len()) / 2;
    for (differing, item) in other.diff(map).enumerate() {
        if differing >= most {
            return;
        }
        match item {
            DiffItem::Add(key, value)
            | DiffItem::Update {
                new: (key, value), ..
            } => like.insert(key.clone(), value.clone()),
            DiffItem::Remove(key, _) => like.remove(key),
        };
    }
    *map = like;
}

/// [`share`] for sets.
pub(crate) fn share_set<T: Ord + Clone>(set: &mut OrdSet<T>, other: &OrdSet<T>) {
    let mut like = other.clone();
    let most = set.len().max(other.len()) / 2;
    for (differing, item) in other.diff(set).enumerate() {
        if differing >= most {
            return;
        }
        match item {
            imbl::ordset::DiffItem::Add(one) => like.insert(one.clone()),
            imbl::ordset::DiffItem::Remove(one) => like.remove(one),
        };
    }
    *set = like;
}

#[cfg(test)]
mod tests {
    use super::{share, share_set};
    use imbl::{OrdMap, OrdSet};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_map_holds_what_it_held_and_shares_the_rest(
            common in prop::collection::btree_map(0_u16..1000, 0_u8..4, 0..400),
            own in prop::collection::vec((0_u16..1000, prop::option::of(0_u8..4)), 0..20),
            others in prop::collection::vec((0_u16..1000, prop::option::of(0_u8..4)), 0..20),
        ) {
            let made = |changes: &[(u16, Option<u8>)]| {
                let mut map: OrdMap<u16, u8> = common.clone().into_iter().collect();
                for (key, value) in changes {
                    match value {
                        Some(value) => map.insert(*key, *value),
                        None => map.remove(key),
                    };
                }
                map
            };
            let (mut map, other) = (made(&own), made(&others));
            let held = map.clone();
            share(&mut map, &other);
            prop_assert_eq!(&map, &held);
            let keys = |map: &OrdMap<u16, u8>| -> OrdSet<u16> { map.keys().copied().collect() };
            let (mut set, other_set) = (keys(&held), keys(&other));
            share_set(&mut set, &other_set);
            prop_assert_eq!(set, keys(&held));
            let mut equal = made(&others);
            share(&mut equal, &other);
            prop_assert!(equal.ptr_eq(&other));
        }
    }
}
