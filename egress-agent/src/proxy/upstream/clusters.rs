//! The proxy's state of each cluster, by the cluster's id. It outlives the snapshots of the route table, which change
//! with every DNS answer. `workload` has what one workload's flows share of it.
//!
//! Open connections are not part of it, because each belongs to one client connection (`pool`).

use super::workload::Workload;
use egress_core::routing::Cluster;
use egress_core::traffic::ClusterId;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// With more clusters than this, unused ones are removed.
const MAX_CLUSTERS: usize = 4096;

/// The most workloads, including ended ones, whose state is kept for one cluster.
const MANY_WORKLOADS: usize = 256;

/// See the module.
#[derive(Debug)]
pub(in crate::proxy) struct Clusters(Mutex<Known>);

#[derive(Debug)]
struct Known {
    states: BTreeMap<ClusterId, State>,
    /// The number of clusters at which unused ones are removed.
    look_at: usize,
}

/// The state of one cluster.
#[derive(Debug, Default)]
struct State {
    /// By workload: as with sidecars, flows of one do not change what another gets.
    workloads: BTreeMap<CgroupId, Arc<Workload>>,
    /// Whether it was used since unused clusters were last removed.
    asked: bool,
}

impl State {
    /// Removes what no connection uses.
    fn forget_unused(&mut self) {
        self.workloads
            .retain(|_, workload| Arc::strong_count(workload) > 1);
    }
}

impl Clusters {
    /// The state of this cluster for flows of one workload.
    pub(in crate::proxy) fn of(&self, cluster: &Cluster, workload: CgroupId) -> Arc<Workload> {
        let mut known = self.known();
        if !known.states.contains_key(&cluster.id) {
            known.make_room();
        }
        let state = known.states.entry(cluster.id.clone()).or_default();
        state.asked = true;
        if state.workloads.len() >= MANY_WORKLOADS && !state.workloads.contains_key(&workload) {
            state.forget_unused();
        }
        Arc::clone(state.workloads.entry(workload).or_default())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Clusters {
    fn default() -> Self {
        Self(Mutex::new(Known {
            states: BTreeMap::new(),
            look_at: MAX_CLUSTERS,
        }))
    }
}

impl Known {
    /// Removes clusters that were not used since the last call.
    fn make_room(&mut self) {
        if self.states.len() >= self.look_at {
            self.states.retain(|_, state| {
                let asked = std::mem::take(&mut state.asked);
                if !asked {
                    state.forget_unused();
                }
                asked || !state.workloads.is_empty()
            });
            self.look_at = MAX_CLUSTERS.max(self.states.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clusters, MAX_CLUSTERS};
    use egress_core::routing::Cluster;
    use egress_core::traffic::ClusterId;
    use egress_ebpf::ids::CgroupId;

    fn cluster(port: u16) -> Cluster {
        Cluster {
            id: ClusterId::new("service.example", port),
            ..Cluster::default()
        }
    }

    #[test]
    fn turns_go_on_in_the_next_snapshot_and_each_workload_has_its_own() {
        let clusters = Clusters::default();
        let first = clusters.of(&cluster(80), CgroupId(1)).draw();
        for _ in 0..5 {
            clusters.of(&cluster(80), CgroupId(2)).draw();
            clusters.of(&cluster(81), CgroupId(1)).draw();
        }
        // The same cluster as another snapshot has it.
        let again = Cluster {
            endpoints: vec!["192.0.2.1:80".parse().expect("an address")],
            ..cluster(80)
        };
        assert_eq!(
            clusters.of(&again, CgroupId(1)).draw(),
            first.wrapping_add(1)
        );
    }

    #[test]
    fn clusters_that_nobody_asks_for_are_forgotten() {
        let clusters = Clusters::default();
        for port in 0..3 * MAX_CLUSTERS {
            clusters.of(&cluster(0), CgroupId(1)).draw();
            clusters.of(&cluster(port as u16), CgroupId(1)).draw();
        }
        let left = clusters.known().states.len();
        assert!(
            left <= 2 * (MAX_CLUSTERS + 1),
            "{left} of {}",
            3 * MAX_CLUSTERS
        );
        let kept = clusters.known().states.contains_key(&cluster(0).id);
        assert!(kept, "one that is asked for is kept");
    }
}
