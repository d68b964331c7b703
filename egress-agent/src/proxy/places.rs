//! The proxy's resources, counted in places, in total and for each workload: a workload at its limit gets no more
//! places, but its neighbours do.
//!
//! A place is a connection, a descriptor, or a block of memory, as the owner of a [`Places`]
//! defines it.

use crate::in_use::InUse;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio::time::timeout;

/// Memory is counted in blocks of this many bytes; smaller amounts are not counted.
pub(super) const BLOCK: usize = 4096;

/// How often a waiting request checks again although its own workload has returned no place, because another
/// workload may have.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

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
    /// By the workload's cgroup; no cgroup has id 0.
    each: BTreeMap<CgroupId, Share>,
}

#[derive(Debug, Default)]
struct Share {
    taken: usize,
    signals: Arc<Signals>,
}

#[derive(Debug, Default)]
struct Signals {
    /// Notified when places are returned.
    freed: Notify,
    /// Whether a request waits for places.
    wanted: Arc<Notify>,
}

/// Places of one workload. Dropping them returns them.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Places>,
    share: CgroupId,
    count: usize,
}

impl Places {
    pub(super) fn new(most: usize, most_each: usize) -> Self {
        Self {
            most,
            most_each,
            taken: Mutex::default(),
        }
    }

    /// A place of this workload, if there is one.
    pub(super) fn take(self: &Arc<Self>, share: CgroupId) -> Option<Place> {
        self.take_many(share, 1)
    }

    /// That many places, or none.
    pub(super) fn take_many(self: &Arc<Self>, share: CgroupId, count: usize) -> Option<Place> {
        let mut place = self.none(share);
        place.resize(count).then_some(place)
    }

    /// That many places if the workload has more than half of its share left, for a use that also
    /// works with less.
    pub(super) fn spare(self: &Arc<Self>, share: CgroupId, count: usize) -> Option<Place> {
        let own = self.taken().each.get(&share).map_or(0, |own| own.taken);
        (own + count <= self.most_each / 2)
            .then(|| self.take_many(share, count))
            .flatten()
    }

    /// No places yet.
    pub(super) fn none(self: &Arc<Self>, share: CgroupId) -> Place {
        Place {
            of: Arc::clone(self),
            share,
            count: 0,
        }
    }

    /// How many are taken and how many there are, each counted as `unit`.
    pub(super) fn in_use(&self, unit: usize) -> InUse {
        InUse {
            used: self.taken().all * unit,
            limit: self.most * unit,
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Changes the number of places; false if there are not enough, and then nothing changes.
    pub(super) fn resize(&mut self, count: usize) -> bool {
        if count == self.count {
            return true;
        }
        let mut taken = self.of.taken();
        let share = taken.each.entry(self.share).or_default();
        let own = share.taken - self.count + count;
        let signals = Arc::clone(&share.signals);
        let all = taken.all - self.count + count;
        if count > self.count && (all > self.of.most || own > self.of.most_each) {
            taken.forget_empty(self.share);
            return false;
        }
        taken.all = all;
        if let Some(share) = taken.each.get_mut(&self.share) {
            share.taken = own;
        }
        taken.forget_empty(self.share);
        drop(taken);
        if count < self.count {
            signals.freed.notify_one();
        }
        self.count = count;
        true
    }

    /// Grows to that many places, if the workload then has more than half of its share left.
    pub(super) fn grow_spare(&mut self, count: usize) -> bool {
        let own = self
            .of
            .taken()
            .each
            .get(&self.share)
            .map_or(0, |own| own.taken);
        let all = own.saturating_sub(self.count) + count;
        all <= self.of.most_each / 2 && self.resize(count)
    }

    /// Changes the number of places as soon as there are enough, and asks idle holders to return
    /// theirs. Dropping the future returns the places.
    pub(super) async fn grown(mut self, count: usize) -> Self {
        while !self.resize(count) {
            let signals = self.signals();
            signals.wanted.notify_one();
            // It checks again in either case.
            let _ = timeout(LOOK_AGAIN, signals.freed.notified()).await;
        }
        self
    }

    /// Fires when another request of the workload waits for places.
    pub(super) fn wanted(&self) -> OwnedNotified {
        Arc::clone(&self.signals().wanted).notified_owned()
    }

    fn signals(&self) -> Arc<Signals> {
        let taken = self.of.taken();
        let share = taken.each.get(&self.share);
        share.map_or_else(Arc::default, |share| Arc::clone(&share.signals))
    }
}

impl Taken {
    fn forget_empty(&mut self, share: CgroupId) {
        if self.each.get(&share).is_some_and(|share| share.taken == 0) {
            self.each.remove(&share);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.resize(0);
    }
}

#[cfg(test)]
mod tests {
    use super::Places;
    use crate::in_use::InUse;
    use egress_ebpf::ids::CgroupId;
    use std::sync::Arc;

    #[test]
    fn a_workload_that_has_its_share_leaves_room_for_others_until_all_is_taken() {
        let places = Arc::new(Places::new(5, 3));
        let own: Vec<_> = (0..10).filter_map(|_| places.take(CgroupId(1))).collect();
        assert_eq!(own.len(), 3);
        let others: Vec<_> = (2..10)
            .filter_map(|share| places.take(CgroupId(share)))
            .collect();
        assert_eq!(others.len(), 2);
        let all = InUse {
            used: 50,
            limit: 50,
        };
        assert_eq!(places.in_use(10), all);
        drop(others);
        assert!(places.take(CgroupId(1)).is_none(), "its share is taken");
        assert!(places.take(CgroupId(2)).is_some());
        drop(own);
        assert!(places.take(CgroupId(1)).is_some());
        assert!(places.taken().each.is_empty(), "nothing is left behind");
        assert_eq!(places.taken().all, 0);
    }
    #[test]
    fn a_place_grows_as_far_as_there_is_room_and_gives_back_what_it_no_longer_needs() {
        let places = Arc::new(Places::new(8, 6));
        let mut place = places.take_many(CgroupId(1), 2).expect("there are 8");
        assert!(place.resize(6));
        assert!(!place.resize(7), "over its share");
        assert!(places.take(CgroupId(1)).is_none());
        assert!(
            places.take_many(CgroupId(2), 3).is_none(),
            "2 of all are left"
        );
        assert!(place.resize(1));
        assert!(places.take_many(CgroupId(2), 3).is_some());
        drop(place);
        assert!(places.taken().each.is_empty(), "nothing is left behind");
        assert_eq!(places.taken().all, 0);
    }

    #[tokio::test]
    async fn who_waits_for_places_asks_for_them_and_gets_the_first_that_are_given_back() {
        let places = Arc::new(Places::new(8, 4));
        let held = places.take_many(CgroupId(1), 3).expect("there are 4");
        let wanted = held.wanted();
        let small = places.take(CgroupId(1)).expect("there are 4");
        let waiting = tokio::spawn(small.grown(4));
        wanted.await;
        assert!(!waiting.is_finished());
        drop(held);
        let place = waiting.await.expect("it got its places");
        assert!(places.take(CgroupId(1)).is_none());
        assert!(
            places.take_many(CgroupId(2), 4).is_some(),
            "a neighbour's are its own"
        );
        drop(place);
        assert_eq!(places.taken().all, 0);
    }
}
