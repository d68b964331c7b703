//! Groups workloads: those of one kind share a policy. When views change, it decides which workload gets which
//! policy, and the ids of the policies.
//!
//! Makes no policy.

use super::State;
use super::policy::Kind;
use crate::registry::scope::{Scope, Workload};
use egress_ebpf::abi::{CLOSED_POLICY, DEFAULT_POLICY};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::{BTreeMap, BTreeSet};

/// The result of grouping workloads again.
#[derive(Debug, Default)]
pub(super) struct Regrouped {
    /// Workloads that have another policy, with the former one.
    pub(super) moved: Vec<(CgroupId, PolicyId)>,
    /// Policies to make. One with an existing id replaces the present one.
    pub(super) made: BTreeMap<PolicyId, Kind>,
    /// Policies that no workload has any more.
    pub(super) ended: Vec<PolicyId>,
}

/// Workloads of one kind that need another policy.
#[derive(Default)]
struct Leaving {
    workloads: Vec<(CgroupId, PolicyId)>,
    /// The policies that they leave.
    from: BTreeSet<PolicyId>,
}

impl State {
    /// Groups workloads again: those for which `concerned` is true, or all if the kind of the default policy changed.
    ///
    /// The kernel gets the policies before it gets the moved workloads. So a policy may change under its id only if
    /// all its workloads have the same kind from here on; otherwise a workload would be judged by another's view. If
    /// they have, the id is kept and no second one is needed.
    pub(super) fn regroup(&mut self, concerned: impl Fn(&Workload, PolicyId) -> bool) -> Regrouped {
        let default = self.kind_of(&self.settings.unknown);
        let standing = self.policies.get(&DEFAULT_POLICY);
        let other_default = !standing.is_some_and(|p| p.is_of(&default));
        let mut stays = BTreeSet::from([DEFAULT_POLICY]);
        let mut to_default = Leaving::default();
        let mut leaving: BTreeMap<Kind, Leaving> = BTreeMap::new();
        for (id, (workload, from)) in &self.workloads {
            if !other_default && !concerned(workload, *from) {
                stays.insert(*from);
                continue;
            }
            let kind = self.kind_of(workload);
            let held = self.policies.get(from).filter(|_| *from != DEFAULT_POLICY);
            let group = if kind == default {
                if *from == DEFAULT_POLICY {
                    continue;
                }
                &mut to_default
            } else if held.is_some_and(|p| p.is_of(&kind)) {
                stays.insert(*from);
                continue;
            } else {
                leaving.entry(kind).or_default()
            };
            group.workloads.push((*id, *from));
            group.from.insert(*from);
        }
        let mut made = BTreeMap::new();
        let mut targets = vec![(DEFAULT_POLICY, to_default.workloads)];
        let ids = self.ids_for(&leaving, &to_default.from, &mut stays);
        for ((kind, group), (id, is_new)) in leaving.into_iter().zip(ids) {
            if is_new && id != CLOSED_POLICY {
                made.insert(id, kind);
            }
            targets.push((id, group.workloads));
        }
        let mut moved = Vec::new();
        for (to, workloads) in targets {
            for (id, from) in workloads.into_iter().filter(|(_, from)| *from != to) {
                if let Some((_, held)) = self.workloads.get_mut(&id) {
                    *held = to;
                }
                moved.push((id, from));
            }
        }
        self.moved |= !moved.is_empty();
        let unused = |id: &&PolicyId| !stays.contains(id) && !made.contains_key(id);
        let ended = self.policies.keys().filter(unused).copied().collect();
        if other_default {
            made.insert(DEFAULT_POLICY, default);
        }
        Regrouped { moved, made, ended }
    }

    /// A policy id for each kind, and whether the policy must be made. In this order: the existing policy of the kind,
    /// a policy that all its workloads leave for this kind, a free id, or the id without a policy.
    fn ids_for(
        &mut self,
        leaving: &BTreeMap<Kind, Leaving>,
        to_default: &BTreeSet<PolicyId>,
        stays: &mut BTreeSet<PolicyId>,
    ) -> Vec<(PolicyId, bool)> {
        if leaving.is_empty() {
            return Vec::new();
        }
        let others = self
            .policies
            .iter()
            .filter(|(id, _)| **id != DEFAULT_POLICY);
        let known: BTreeMap<(&Scope, bool), PolicyId> = others
            .map(|(id, p)| ((&p.view.scope, p.audit), *id))
            .collect();
        let known: Vec<_> = leaving
            .keys()
            .map(|kind| known.get(&(&kind.scope, kind.audit)).copied())
            .collect();
        stays.extend(known.iter().flatten());
        let mut groups: BTreeMap<PolicyId, usize> = to_default.iter().map(|id| (*id, 1)).collect();
        for id in leaving.values().flat_map(|group| &group.from) {
            *groups.entry(*id).or_default() += 1;
        }
        let left_whole = |id: &&PolicyId| {
            self.policies.contains_key(*id) && !stays.contains(*id) && groups.get(*id) == Some(&1)
        };
        let known: Vec<_> = leaving
            .values()
            .zip(known)
            .map(|(group, known)| {
                let own = || group.from.iter().find(left_whole).copied();
                (known.or_else(own), known.is_none())
            })
            .collect();
        let mut taken = self.taken();
        let mut id = |(known, is_new): (Option<PolicyId>, bool)| {
            let id = known.unwrap_or_else(|| self.free_id(&taken));
            taken.insert(id);
            (id, is_new)
        };
        known.into_iter().map(&mut id).collect()
    }
}
