//! A queue of cgroups with a flow that was denied because their network namespace has no proxy. The reader
//! of the kernel's events adds them, and the engine takes them to open listeners there. A cgroup is queued
//! once, however many events there are.

use egress_ebpf::ids::CgroupId;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// The most cgroups in the queue.
const MAX_QUEUE: usize = 4096;

/// See the module. Clones share the queue.
#[derive(Clone, Debug, Default)]
pub struct Missed(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    cgroups: Mutex<BTreeSet<CgroupId>>,
    came: Notify,
}

impl Missed {
    /// Queues a cgroup. If the queue is full, the cgroup waits for its next regular check.
    pub fn add(&self, cgroup: CgroupId) {
        let mut cgroups = self.waiting();
        if cgroups.len() < MAX_QUEUE && cgroups.insert(cgroup) {
            self.0.came.notify_one();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeSet<CgroupId>> {
        let cgroups = self.0.cgroups.lock();
        cgroups.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for cgroups and takes them. Dropping the future loses none.
    pub async fn next(&self) -> BTreeSet<CgroupId> {
        loop {
            let came = self.0.came.notified();
            let cgroups = std::mem::take(&mut *self.waiting());
            if !cgroups.is_empty() {
                return cgroups;
            }
            came.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Missed;
    use egress_ebpf::ids::CgroupId;

    #[tokio::test]
    async fn a_cgroup_that_misses_often_is_told_of_once() {
        let missed = Missed::default();
        let waiting = missed.clone();
        let next = tokio::spawn(async move { waiting.next().await });
        tokio::task::yield_now().await;
        for _ in 0..100 {
            missed.add(CgroupId(7));
        }
        let first = next.await.unwrap();
        assert_eq!(first.into_iter().collect::<Vec<_>>(), [CgroupId(7)]);
        missed.add(CgroupId(9));
        assert_eq!(missed.next().await.len(), 1, "nothing is left of the first");
    }
}
