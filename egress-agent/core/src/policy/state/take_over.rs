//! The ids of the first policies: those of a previous agent's policies where possible, so that a restart does not need
//! a second id for each policy.
//!
//! Does not know how the kernel holds owners.

use super::State;
use super::workloads::FIRST_ID;
use crate::policy::naming::Needs;
use egress_ebpf::abi::{CLOSED_POLICY, DEFAULT_POLICY, MAX_POLICIES};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::{BTreeMap, BTreeSet};

impl State {
    /// Starts with cgroups that have policies of a previous agent.
    #[must_use]
    pub fn with_owners(mut self, owners: BTreeMap<CgroupId, PolicyId>) -> Self {
        self.owned_before = owners;
        self
    }

    /// Before the first plan nothing is written, so ids may differ from those of the kernel.
    pub(super) fn id_before_begin(taken: &BTreeSet<PolicyId>) -> PolicyId {
        let last = taken.last().copied().unwrap_or(DEFAULT_POLICY);
        PolicyId(last.0.max(MAX_POLICIES - 1) + 1)
    }

    /// Gives each policy an id. It takes over an existing id if every cgroup with that id is a workload of this policy:
    /// one write then puts all of them under the new rules, and no other workload. Other policies get free ids. If none
    /// is left, their workloads are closed until one is free.
    pub(super) fn take_over(&mut self, needs: &mut Needs) {
        let mut members: BTreeMap<PolicyId, Vec<CgroupId>> = BTreeMap::new();
        for (id, (_, policy)) in &self.workloads {
            members.entry(*policy).or_default().push(*id);
        }
        // By existing id: the one policy of all its cgroups, if there is one.
        let mut heirs: BTreeMap<PolicyId, Option<PolicyId>> = BTreeMap::new();
        for (cgroup, stood) in &self.owned_before {
            let heir = self.workloads.get(cgroup).map(|(_, policy)| *policy);
            let held = heirs.entry(*stood).or_insert(heir);
            *held = held.filter(|held| Some(*held) == heir);
        }
        let usable: BTreeSet<PolicyId> = self.settings.ids_from(FIRST_ID).collect();
        let mut ids: BTreeMap<PolicyId, PolicyId> =
            BTreeMap::from([(DEFAULT_POLICY, DEFAULT_POLICY)]);
        for (stood, heir) in &heirs {
            let known = |heir: &PolicyId| self.policies.contains_key(heir);
            if let Some(heir) = heir.filter(|heir| usable.contains(stood) && known(heir)) {
                ids.entry(heir).or_insert(*stood);
            }
        }
        let used: BTreeSet<PolicyId> = ids.values().copied().collect();
        let standing = self.planner.policies();
        // Existing ids without cgroups come last, because they must be overwritten.
        let free = |id: &PolicyId| !used.contains(id) && !heirs.contains_key(id);
        let (stand, fresh): (Vec<PolicyId>, Vec<PolicyId>) = usable
            .iter()
            .copied()
            .filter(free)
            .partition(|id| standing.contains_key(id));
        let mut free = fresh.into_iter().chain(stand);
        let policies: Vec<PolicyId> = self.policies.keys().copied().collect();
        for policy in policies {
            ids.entry(policy)
                .or_insert_with(|| free.next().unwrap_or(CLOSED_POLICY));
        }
        self.next_id = FIRST_ID;
        for (policy, id) in &ids {
            for workload in members.get(policy).into_iter().flatten() {
                if let Some((_, held)) = self.workloads.get_mut(workload) {
                    *held = *id;
                }
            }
            if *id == CLOSED_POLICY {
                self.close(*policy, needs);
            }
        }
        let mut policies = std::mem::take(&mut self.policies);
        for (policy, id) in &ids {
            let moved = policies.remove(policy);
            self.policies.extend(moved.map(|p| (*id, p)));
        }
        self.hosts.rename(&ids);
        self.moved = true;
    }
}
