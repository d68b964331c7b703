//! The proxy's state of each cluster, by the cluster's id. It outlives the snapshots of the route table, which change
//! with every DNS answer.
//!
//! Open connections are not part of it, because each belongs to one client connection (`pool`).

use egress_core::routing::{Cluster, Turns};
use egress_core::traffic::ClusterId;
use egress_ebpf::ids::PolicyId;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// With more clusters than this, unused ones are removed.
const MANY: usize = 4096;

/// The most policies, including ended ones, whose turns are kept for one cluster.
const MANY_POLICIES: usize = 256;

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
    /// The round robin among the endpoints, by policy: flows of one policy do not advance the turns of another.
    turns: BTreeMap<PolicyId, Turns>,
    /// Whether it was used since unused clusters were last removed.
    asked: bool,
}

impl Clusters {
    /// The number of the next draw from the endpoints of this cluster, for flows under this policy.
    pub(in crate::proxy) fn draw(&self, cluster: &Cluster, policy: PolicyId) -> usize {
        let mut known = self.known();
        if !known.states.contains_key(&cluster.id) {
            known.make_room();
        }
        let state = known.states.entry(cluster.id.clone()).or_default();
        state.asked = true;
        if state.turns.len() >= MANY_POLICIES && !state.turns.contains_key(&policy) {
            // A new count is just as even.
            state.turns.clear();
        }
        state.turns.entry(policy).or_default().draw()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Clusters {
    fn default() -> Self {
        Self(Mutex::new(Known {
            states: BTreeMap::new(),
            look_at: MANY,
        }))
    }
}

impl Known {
    /// Removes clusters that were not used since the last call.
    fn make_room(&mut self) {
        if self.states.len() >= self.look_at {
            self.states
                .retain(|_, state| std::mem::take(&mut state.asked));
            self.look_at = MANY.max(self.states.len() * 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Clusters, MANY};
    use egress_core::routing::Cluster;
    use egress_core::traffic::ClusterId;
    use egress_ebpf::ids::PolicyId;

    fn cluster(port: u16) -> Cluster {
        Cluster {
            id: ClusterId::new("service.example", port),
            ..Cluster::default()
        }
    }

    #[test]
    fn turns_go_on_in_the_next_snapshot_and_each_policy_has_its_own() {
        let clusters = Clusters::default();
        let first = clusters.draw(&cluster(80), PolicyId(1));
        for _ in 0..5 {
            clusters.draw(&cluster(80), PolicyId(2));
            clusters.draw(&cluster(81), PolicyId(1));
        }
        // The same cluster as another snapshot has it.
        let again = Cluster {
            endpoints: vec!["192.0.2.1:80".parse().expect("an address")],
            ..cluster(80)
        };
        assert_eq!(clusters.draw(&again, PolicyId(1)), first.wrapping_add(1));
    }

    #[test]
    fn clusters_that_nobody_asks_for_are_forgotten() {
        let clusters = Clusters::default();
        for port in 0..3 * MANY {
            clusters.draw(&cluster(0), PolicyId(1));
            clusters.draw(&cluster(port as u16), PolicyId(1));
        }
        let left = clusters.known().states.len();
        assert!(left <= 2 * (MANY + 1), "{left} of {}", 3 * MANY);
        let kept = clusters.known().states.contains_key(&cluster(0).id);
        assert!(kept, "one that is asked for is kept");
    }
}
