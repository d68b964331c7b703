//! Which hosts belong to a key: a persistent map of counted pairs.
//!
//! A copy is cheap and shares unchanged parts with the original.

use imbl::OrdMap;
use std::sync::Arc;

/// Hosts by key. A pair that was added twice stays until it was removed twice.
#[derive(Clone, Debug)]
pub(in crate::policy) struct Pairs<K: Ord>(OrdMap<(K, Arc<str>), u32>);

impl<K: Ord> Default for Pairs<K> {
    fn default() -> Self {
        Self(OrdMap::new())
    }
}

impl<K: Ord + Clone> Pairs<K> {
    /// Adds a pair once. Returns whether it is new.
    pub(in crate::policy) fn add(&mut self, key: &K, host: &Arc<str>) -> bool {
        let pair = (key.clone(), Arc::clone(host));
        // Most pairs are new.
        let before = self.0.insert(pair.clone(), 1);
        if let Some(count) = before {
            self.0.insert(pair, count + 1);
        }
        before.is_none()
    }

    /// Removes a pair once. Returns whether it is gone.
    pub(in crate::policy) fn remove(&mut self, key: &K, host: &Arc<str>) -> bool {
        let pair = (key.clone(), Arc::clone(host));
        match self.0.get_mut(&pair) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            Some(_) => self.0.remove(&pair).is_some(),
            None => false,
        }
    }

    /// The hosts of a key, sorted.
    pub(in crate::policy) fn of<'a>(
        &'a self,
        key: &K,
    ) -> impl Iterator<Item = &'a Arc<str>> + use<'a, K> {
        let first = (key.clone(), Arc::<str>::default());
        let hosts = self.0.range(first..).map(|(pair, _)| pair);
        let key = key.clone();
        hosts
            .take_while(move |(of, _)| *of == key)
            .map(|(_, host)| {
                super::work::note();
                host
            })
    }

    /// How many pairs there are.
    pub(in crate::policy) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether a key has a host.
    pub(in crate::policy) fn has(&self, key: &K) -> bool {
        self.of(key).next().is_some()
    }

    /// Every key once, in order.
    pub(in crate::policy) fn keys(&self) -> impl Iterator<Item = &K> {
        let mut last = None;
        let keys = self.0.keys().map(|(key, _)| key);
        keys.filter(move |key| last.replace(*key) != Some(key))
    }
}

#[cfg(test)]
mod tests {
    use super::Pairs;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    proptest! {
        #[test]
        fn pairs_are_those_that_were_added_more_often_than_removed(
            steps in prop::collection::vec((any::<bool>(), 0_u8..4, 0_u8..4), 0..200),
        ) {
            let (mut pairs, mut model) = (Pairs::default(), BTreeMap::<(u8, String), u32>::new());
            let copy = pairs.clone();
            for (adds, key, host) in steps {
                let (name, host): (String, Arc<str>) = (host.to_string(), host.to_string().into());
                let count = model.entry((key, name)).or_default();
                if adds {
                    *count += 1;
                    prop_assert_eq!(pairs.add(&key, &host), *count == 1);
                } else {
                    let gone = *count == 1;
                    *count = count.saturating_sub(1);
                    prop_assert_eq!(pairs.remove(&key, &host), gone);
                }
                model.retain(|_, count| *count > 0);
            }
            for key in 0..4 {
                let hosts: Vec<String> = pairs.of(&key).map(ToString::to_string).collect();
                let want: Vec<String> = model.keys().filter(|(k, _)| *k == key).map(|(_, h)| h.clone()).collect();
                prop_assert_eq!(pairs.has(&key), !want.is_empty());
                prop_assert_eq!(hosts, want);
            }
            let mut keys: Vec<u8> = model.keys().map(|(k, _)| *k).collect();
            keys.dedup();
            prop_assert_eq!(pairs.keys().copied().collect::<Vec<_>>(), keys);
            prop_assert_eq!(copy.keys().count(), 0, "a copy stays as it was");
        }
    }
}
