//! How many queries wait for an answer, in total and for each workload: a workload at its limit gets no answer to
//! further ones, but its neighbours do.

use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module.
#[derive(Debug)]
pub(super) struct Shares {
    most: usize,
    most_each: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    each: BTreeMap<CgroupId, usize>,
}

/// One place. Dropping it returns it.
#[derive(Debug)]
pub(super) struct Place {
    of: Arc<Shares>,
    share: CgroupId,
}

impl Shares {
    pub(super) fn new(most: usize, most_each: usize) -> Self {
        Self {
            most,
            most_each,
            taken: Mutex::default(),
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place of this workload, if there is one.
    pub(super) fn take(self: &Arc<Self>, share: CgroupId) -> Option<Place> {
        let mut taken = self.taken();
        if taken.all >= self.most {
            return None;
        }
        let own = taken.each.entry(share).or_default();
        if *own >= self.most_each {
            return None;
        }
        *own += 1;
        taken.all += 1;
        Some(Place {
            of: Arc::clone(self),
            share,
        })
    }

    /// How many are taken.
    pub(super) fn in_use(&self) -> usize {
        self.taken().all
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
    use super::{CgroupId, Shares};
    use std::sync::Arc;

    #[test]
    fn a_workload_at_its_limit_leaves_room_for_its_neighbour() {
        let shares = Arc::new(Shares::new(3, 2));
        let (a, b) = (CgroupId(1), CgroupId(2));
        let first = shares.take(a).unwrap();
        let _second = shares.take(a).unwrap();
        assert!(shares.take(a).is_none());
        let _neighbour = shares.take(b).unwrap();
        assert!(shares.take(b).is_none(), "all are taken");
        drop(first);
        assert!(shares.take(a).is_some());
        assert_eq!(shares.in_use(), 2);
    }
}
