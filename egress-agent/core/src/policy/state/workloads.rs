//! The state machine's part with workloads: those of one kind share a policy, and a policy that
//! none has any more goes.

use super::State;
use super::policy::{Kind, PolicyState, Unlisted};
use crate::policy::diff::{Desired, TableOp};
use crate::policy::naming::Needs;
use crate::registry::scope::Workload;
use crate::registry::view::View;
use egress_ebpf::abi::{CLOSED_POLICY, DEFAULT_POLICY};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

impl State {
    /// A workload appeared, or is another than before. Its policy is [`Self::policy_of`] from
    /// here on, once the ops are written.
    pub fn handle_workload(&mut self, now: Instant, id: u64, workload: Workload) {
        let kind = self.kind_of(&workload);
        let known = self.policies.iter().find(|(_, p)| p.is_of(&kind));
        let policy = known.map(|(id, _)| *id);
        if let (Some(policy), Some((_, held))) = (policy, self.workloads.get(&id))
            && policy == *held
        {
            self.workloads.insert(id, (workload, policy));
            return;
        }
        let policy = match policy {
            Some(policy) => policy,
            // With no rules yet it is judged with the first ones.
            None if self.policies.is_empty() => DEFAULT_POLICY,
            None => {
                let free = self.free_id(&self.taken());
                if free != CLOSED_POLICY {
                    let mut needs = Needs::default();
                    let made = self.make([(free, kind)].into(), &mut needs);
                    self.want(now, &needs);
                    self.write(made, &[]);
                }
                free
            }
        };
        self.workloads.insert(id, (workload, policy));
        self.moved = true;
        self.sweep(now);
        self.handle_timeout(now);
    }

    pub(super) fn kind_of(&self, workload: &Workload) -> Kind {
        Kind {
            scope: self.registry.scope_of(workload),
            audit: workload.audit.unwrap_or(self.settings.audit),
        }
    }

    /// A workload is gone.
    pub fn forget_workload(&mut self, now: Instant, id: u64) {
        if self.workloads.remove(&id).is_some() {
            self.moved = true;
            self.sweep(now);
        }
    }

    /// The policy of a workload; of one that is not known, the enforced root's default.
    pub fn policy_of(&self, id: u64) -> u32 {
        self.owned(id).unwrap_or(DEFAULT_POLICY)
    }

    /// The policy of a known workload.
    pub fn owned(&self, id: u64) -> Option<u32> {
        self.workloads.get(&id).map(|(_, policy)| *policy)
    }

    /// What becomes of what no rule lists for a workload.
    pub fn unlisted(&self, id: u64) -> Unlisted {
        let policy = self.policies.get(&self.policy_of(id));
        policy.map_or(Unlisted::Refused, PolicyState::unlisted)
    }

    /// Workloads for whose kind there was no policy left: everything is denied to them.
    pub fn without_policy(&self) -> usize {
        let policies = self.workloads.values().map(|(_, policy)| *policy);
        policies.filter(|policy| *policy == CLOSED_POLICY).count()
    }

    /// Gives workloads without a policy one, where ids came free. To be called once the ops are
    /// written. Returns whether any got one: owners and ops are then to be written again.
    pub fn place_closed(&mut self, now: Instant) -> bool {
        let closed = self.without_policy();
        let taken = self.taken();
        if closed == 0 || (1..self.settings.policies_end).all(|id| taken.contains(&id)) {
            return false;
        }
        let mut needs = Needs::default();
        let groups = self.regroup(|_, policy| policy == CLOSED_POLICY);
        for id in &groups.ended {
            self.close(*id, &mut needs);
        }
        let made = self.make(groups.made, &mut needs);
        self.want(now, &needs);
        self.write(made, &groups.ended);
        self.handle_timeout(now);
        self.without_policy() < closed
    }

    /// An id for one more policy; with none left, that of no policy. The one that was given out
    /// longest ago comes first: flows of its former view may still carry it.
    pub(super) fn free_id(&mut self, taken: &BTreeSet<u32>) -> u32 {
        let end = self.settings.policies_end;
        let mut order = (self.next_id..end).chain(1..self.next_id.min(end));
        let Some(free) = order.find(|id| !taken.contains(id)) else {
            return CLOSED_POLICY;
        };
        self.next_id = free + 1;
        free
    }

    /// Ids that are not free: of this state, of what the kernel has (cgroups stand under adopted
    /// ones until they get another), and of policies whose end is not written yet, because
    /// owners are written before the end of policies.
    pub(super) fn taken(&self) -> BTreeSet<u32> {
        let standing = self.planner.policies().keys().copied();
        let ending = self.ops.iter().filter_map(|op| match op {
            TableOp::DeletePolicy(id) => Some(*id),
            _ => None,
        });
        let own = self.policies.keys().copied();
        own.chain(standing).chain(ending).collect()
    }

    /// Every policy that no workload has any more goes.
    fn sweep(&mut self, now: Instant) {
        let used: BTreeSet<u32> = self.workloads.values().map(|(_, p)| *p).collect();
        let unused = |id: &u32| *id != DEFAULT_POLICY && !used.contains(id);
        let gone: Vec<u32> = self.policies.keys().copied().filter(unused).collect();
        if !gone.is_empty() {
            let mut needs = Needs::default();
            for id in &gone {
                self.close(*id, &mut needs);
            }
            self.want(now, &needs);
            self.write(BTreeMap::new(), &gone);
        }
    }

    /// Makes policies for workloads of these kinds. Returns what the kernel is to hold of them.
    pub(super) fn make(
        &mut self,
        kinds: BTreeMap<u32, Kind>,
        needs: &mut Needs,
    ) -> BTreeMap<u32, Desired> {
        let mut desired = BTreeMap::new();
        for (id, kind) in kinds {
            self.open(id, kind, needs);
            let policy = self.policies.get(&id).filter(|_| self.begun);
            desired.extend(policy.map(|p| (id, self.desired(p))));
        }
        desired
    }

    /// Has the kernel's policies follow those that were made and those that ended.
    fn write(&mut self, made: BTreeMap<u32, Desired>, ended: &[u32]) {
        if self.begun {
            let ops = self.planner.change(&BTreeMap::new(), made, ended);
            self.ops.extend(ops);
        }
    }

    /// Makes a policy for workloads of a kind.
    pub(super) fn open(&mut self, id: u32, kind: Kind, needs: &mut Needs) {
        self.rebuilt = true;
        let view = View::new(&self.registry, kind.scope);
        self.hosts.open(id, &view, needs);
        let policy = PolicyState::new(view, kind.audit, &self.settings, &self.leases);
        self.policies.insert(id, policy);
    }

    /// Ends a policy, and returns it.
    pub(super) fn close(&mut self, id: u32, needs: &mut Needs) -> Option<(u32, PolicyState)> {
        let policy = self.policies.remove(&id)?;
        self.rebuilt = true;
        self.hosts.close(id, needs);
        Some((id, policy))
    }
}
