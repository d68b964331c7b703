//! How many connections there may be at one time: over all, and of one workload, so that one
//! that opens too many is refused more of them and its neighbours are not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places whose end is worth a look at the memory that they had.
const MANY: usize = 128;

/// See the module.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    most_each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// The most since [`Places::fell`] was last true.
    peak: usize,
    /// By the cgroup that stands for the workload; none of them 0.
    each: BTreeMap<u64, usize>,
}

/// A connection's place. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Places>,
    share: u64,
}

impl Places {
    pub(super) fn new(most: usize, most_each: usize) -> Self {
        Self {
            most,
            most_each,
            taken: Mutex::default(),
        }
    }

    /// A place for a connection of the workload that this cgroup stands for, if there is one.
    pub(super) fn take(self: &Arc<Self>, share: u64) -> Option<Place> {
        let mut taken = self.taken();
        let own = taken.each.get(&share).copied().unwrap_or(0);
        if taken.all >= self.most || own >= self.most_each {
            return None;
        }
        taken.all += 1;
        taken.peak = taken.peak.max(taken.all);
        taken.each.insert(share, own + 1);
        Some(Place {
            of: Arc::clone(self),
            share,
        })
    }

    /// Whether many places were given back since this was last true.
    pub(super) fn fell(&self) -> bool {
        let mut taken = self.taken();
        let fell = taken.peak >= MANY && taken.all <= taken.peak / 2;
        if fell {
            taken.peak = taken.all;
        }
        fell
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.of.taken();
        taken.all -= 1;
        if let Some(own) = taken.each.get_mut(&self.share) {
            *own -= 1;
            if *own == 0 {
                taken.each.remove(&self.share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Places;
    use std::sync::Arc;

    #[test]
    fn a_workload_that_has_its_share_leaves_room_for_others_until_all_is_taken() {
        let places = Arc::new(Places::new(5, 3));
        let own: Vec<_> = (0..10).filter_map(|_| places.take(1)).collect();
        assert_eq!(own.len(), 3);
        let others: Vec<_> = (2..10).filter_map(|share| places.take(share)).collect();
        assert_eq!(others.len(), 2);
        drop(others);
        assert!(places.take(1).is_none(), "its share is taken");
        assert!(places.take(2).is_some());
        drop(own);
        assert!(places.take(1).is_some());
        assert!(places.taken().each.is_empty(), "nothing is left behind");
        assert_eq!(places.taken().all, 0);
    }
}
