//! Entries of a port by the names that they are listed under: finds the most specific one for a name: the exact name,
//! then the longest wildcard. Does not know what an entry does.
//!
//! A persistent map: a copy shares unchanged parts, so the cost of adding a name does not depend on the number of
//! names.
//!
//! A wildcard matches by text suffix, any number of labels deep, as in Istio (`pkg/config/host/name.go`):
//! `*.example.com` matches `a.b.example.com` and not `example.com`; `*example.com` matches both, and `badexample.com`
//! too.

use crate::istio::hosts::{WILDCARDS, ends, specificity};
use crate::sharing::share;
use imbl::OrdMap;
use std::cmp::Ordering;
use std::sync::Arc;

/// What is listed under names.
pub trait Named {
    /// The names, canonical hosts or wildcards.
    fn names(&self) -> impl Iterator<Item = &str>;
}

/// Which of the entries of one name comes first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rank {
    /// In the order of the most specific of these hosts, then of the numbers.
    Of(Arc<str>, u32),
    /// After all others.
    Last,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Of(a, first), Self::Of(b, second)) => specificity(a)
                .cmp(&specificity(b))
                .then_with(|| first.cmp(second)),
            (Self::Of(..), Self::Last) => Ordering::Less,
            (Self::Last, Self::Of(..)) => Ordering::Greater,
            (Self::Last, Self::Last) => Ordering::Equal,
        }
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The entries of one name, in order of their ranks.
#[derive(Debug)]
enum Few<T> {
    One(Rank, Arc<T>),
    Many(Arc<[(Rank, Arc<T>)]>),
}

impl<T> Few<T> {
    fn all(&self) -> Vec<(Rank, Arc<T>)> {
        match self {
            Self::One(rank, entry) => vec![(rank.clone(), Arc::clone(entry))],
            Self::Many(all) => all.to_vec(),
        }
    }

    fn of(mut all: Vec<(Rank, Arc<T>)>) -> Option<Self> {
        if all.len() > 1 {
            return Some(Self::Many(all.into()));
        }
        all.pop().map(|(rank, entry)| Self::One(rank, entry))
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        let (one, many) = match self {
            Self::One(_, entry) => (Some(entry), None),
            Self::Many(all) => (None, Some(all)),
        };
        let many = many.into_iter().flat_map(|all| all.iter());
        one.into_iter().chain(many.map(|(_, entry)| entry))
    }
}

impl<T> Clone for Few<T> {
    fn clone(&self) -> Self {
        match self {
            Self::One(rank, entry) => Self::One(rank.clone(), Arc::clone(entry)),
            Self::Many(all) => Self::Many(Arc::clone(all)),
        }
    }
}

/// Two lists are equal that have the same entries in the same order.
impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// See the module.
#[derive(Debug)]
pub struct ByName<T> {
    names: OrdMap<Arc<str>, Few<T>>,
}

impl<T> ByName<T> {
    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Lists an entry under a name, and replaces one of the same rank.
    pub fn insert(&mut self, name: &Arc<str>, rank: Rank, entry: Arc<T>) {
        let Some(held) = self.names.get(&**name) else {
            self.names.insert(Arc::clone(name), Few::One(rank, entry));
            return;
        };
        let mut all = held.all();
        match all.binary_search_by(|(held, _)| held.cmp(&rank)) {
            Ok(at) => all[at].1 = entry,
            Err(at) => all.insert(at, (rank, entry)),
        }
        if let Some(few) = Few::of(all) {
            self.names.insert(Arc::clone(name), few);
        }
    }

    /// Removes the entry of a rank from a name.
    pub fn remove(&mut self, name: &str, rank: &Rank) {
        let Some(held) = self.names.get(name) else {
            return;
        };
        let mut all = held.all();
        all.retain(|(held, _)| held != rank);
        match Few::of(all) {
            Some(few) => {
                if let Some(held) = self.names.get_mut(name) {
                    *held = few;
                }
            }
            None => {
                self.names.remove(name);
            }
        }
    }

    /// Every name with its entries, sorted; wildcards come last.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<T>)> {
        let of = |wildcards: bool| {
            let names = self.names.iter();
            names.filter(move |(name, _)| name.starts_with('*') == wildcards)
        };
        let names = of(false).chain(of(true));
        names.flat_map(|(name, few)| few.iter().map(move |entry| (name, entry)))
    }

    /// The result of `accept` for the first entry that it takes, the most specific name first.
    pub(super) fn find<R>(&self, host: &str, accept: impl Fn(&Arc<T>) -> Option<R>) -> Option<R> {
        let find = |name: &str| self.names.get(name)?.iter().find_map(&accept);
        let longest_wildcard = || {
            self.names.range::<_, str>(WILDCARDS).next()?;
            let mut wildcard = String::with_capacity(host.len() + 1);
            ends(host).find_map(|end| {
                wildcard.clear();
                wildcard.push('*');
                wildcard.push_str(end);
                find(&wildcard)
            })
        };
        find(host).or_else(longest_wildcard)
    }
}

impl<T: PartialEq> ByName<T> {
    /// Shares the parts that are equal in another map.
    pub(super) fn share(&mut self, other: &Self) {
        share(&mut self.names, &other.names);
    }
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self {
            names: OrdMap::new(),
        }
    }
}

impl<T> Clone for ByName<T> {
    fn clone(&self) -> Self {
        Self {
            names: self.names.clone(),
        }
    }
}

impl<T: PartialEq> PartialEq for ByName<T> {
    fn eq(&self, other: &Self) -> bool {
        self.names == other.names
    }
}

/// Entries in their order, each under its own names.
impl<T: Named> From<Vec<Arc<T>>> for ByName<T> {
    fn from(entries: Vec<Arc<T>>) -> Self {
        let mut new = Self::default();
        for (number, entry) in (0..).zip(entries) {
            for name in entry.names() {
                let rank = Rank::Of(Arc::default(), number);
                new.insert(&name.into(), rank, Arc::clone(&entry));
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::{ByName, Named};
    use std::sync::Arc;

    struct Entry(&'static str);

    impl Named for Entry {
        fn names(&self) -> impl Iterator<Item = &str> {
            std::iter::once(self.0)
        }
    }

    #[test]
    fn a_wildcard_is_found_beside_names_that_sort_before_it() {
        let entries = ["*.x.com", "${HOST}.x.com", "b.com"].map(|name| Arc::new(Entry(name)));
        let names = ByName::from(entries.to_vec());
        for (host, expected) in [
            ("a.x.com", Some("*.x.com")),
            ("b.com", Some("b.com")),
            ("c.com", None),
        ] {
            let found = names.find(host, |entry| Some(entry.0));
            assert_eq!(found, expected, "{host}");
        }
    }
}
