//! Workloads in the state machine: workloads of one kind share a policy, and an unused policy is deleted.

use super::State;
use super::policy::{Kind, PolicyState, Unlisted};
use crate::policy::diff::{Desired, TableOp};
use crate::policy::naming::Needs;
use crate::registry::scope::{Scope, Workload};
use crate::registry::view::View;
use egress_ebpf::abi::{CLOSED_POLICY, DEFAULT_POLICY};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The most policies with other imports that are checked in the search for one to copy.
const CONSIDERED: usize = 8;

/// The first id for a policy; [`DEFAULT_POLICY`] is the id of the enforced roots.
pub(super) const FIRST_ID: PolicyId = PolicyId(DEFAULT_POLICY.0 + 1);

impl State {
    /// A workload appeared or changed. [`Self::policy_of`] has its policy, which is in force once the ops are written.
    pub fn handle_workload(&mut self, now: Instant, id: CgroupId, workload: Workload) {
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
            // Without rules yet: the first rules will decide its policy.
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
    pub fn forget_workload(&mut self, now: Instant, id: CgroupId) {
        if self.workloads.remove(&id).is_some() {
            self.moved = true;
            self.sweep(now);
        }
    }

    /// The policy of a workload; for an unknown one, the enforced root's default.
    pub fn policy_of(&self, id: CgroupId) -> PolicyId {
        self.owned(id).unwrap_or(DEFAULT_POLICY)
    }

    /// The policy of a known workload.
    pub fn owned(&self, id: CgroupId) -> Option<PolicyId> {
        self.workloads.get(&id).map(|(_, policy)| *policy)
    }

    /// What is done with unlisted destinations of a workload.
    pub fn unlisted(&self, id: CgroupId) -> Unlisted {
        let policy = self.policies.get(&self.policy_of(id));
        policy.map_or(Unlisted::Denied, PolicyState::unlisted)
    }

    /// The number of policies, including the default, and the largest possible number.
    pub fn policies_in_use(&self) -> (usize, usize) {
        (self.policies.len(), self.settings.policies_end.0 as usize)
    }

    /// The number of workloads without a policy because all ids are used: everything is denied to them.
    pub fn without_policy(&self) -> usize {
        let policies = self.workloads.values().map(|(_, policy)| *policy);
        policies.filter(|policy| *policy == CLOSED_POLICY).count()
    }

    /// Gives policies to workloads without one if ids are free again. Call it once the ops are written. Returns whether
    /// any workload got one; owners and ops must then be written again.
    pub fn place_closed(&mut self, now: Instant) -> bool {
        let closed = self.without_policy();
        let taken = self.taken();
        if closed == 0
            || self
                .settings
                .ids_from(FIRST_ID)
                .all(|id| taken.contains(&id))
        {
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

    /// An id for one more policy; if none is left, the id that stands for no policy. The search starts behind the last
    /// one given, because flows may still carry the ids of ended policies.
    pub(super) fn free_id(&mut self, taken: &BTreeSet<PolicyId>) -> PolicyId {
        if !self.begun {
            return Self::id_before_begin(taken);
        }
        let (settings, next) = (&self.settings, self.next_id);
        let before = settings.ids_from(FIRST_ID).take_while(|id| *id < next);
        let mut order = settings.ids_from(next).chain(before);
        let Some(free) = order.find(|id| !taken.contains(id)) else {
            return CLOSED_POLICY;
        };
        self.next_id = PolicyId(free.0 + 1);
        free
    }

    /// Ids that are not free: those of this state, those in the kernel (cgroups keep adopted ones until they get
    /// another), and those of policies whose deletion is not written yet, because owners are written before deletions.
    pub(super) fn taken(&self) -> BTreeSet<PolicyId> {
        let standing = self.planner.policies().keys().copied();
        let ending = self.ops.iter().filter_map(|op| match op {
            TableOp::DeletePolicy(id) => Some(*id),
            _ => None,
        });
        let own = self.policies.keys().copied();
        own.chain(standing).chain(ending).collect()
    }

    /// Ends every policy that no workload has any more.
    fn sweep(&mut self, now: Instant) {
        let used: BTreeSet<PolicyId> = self.workloads.values().map(|(_, p)| *p).collect();
        let unused = |id: &PolicyId| *id != DEFAULT_POLICY && !used.contains(id);
        let gone: Vec<PolicyId> = self.policies.keys().copied().filter(unused).collect();
        if !gone.is_empty() {
            let mut needs = Needs::default();
            for id in &gone {
                self.close(*id, &mut needs);
            }
            self.want(now, &needs);
            self.write(BTreeMap::new(), &gone);
        }
    }

    /// Makes policies for workloads of these kinds. Returns their desired state in the kernel.
    pub(super) fn make(
        &mut self,
        kinds: BTreeMap<PolicyId, Kind>,
        needs: &mut Needs,
    ) -> BTreeMap<PolicyId, Desired> {
        let mut desired = BTreeMap::new();
        for (id, kind) in kinds {
            self.open(id, kind, needs);
            let policy = self.policies.get(&id).filter(|_| self.begun);
            desired.extend(policy.map(|p| (id, self.desired(p))));
        }
        desired
    }

    /// Plans the kernel writes for policies that were made and that ended.
    fn write(&mut self, made: BTreeMap<PolicyId, Desired>, ended: &[PolicyId]) {
        if self.begun {
            let ops = self.planner.make(made, ended);
            self.ops.extend(ops);
        }
    }

    /// Makes a policy for workloads of a kind. If a policy with the same imports exists, the new one is made from it
    /// and shares equal parts.
    pub(super) fn open(&mut self, id: PolicyId, kind: Kind, needs: &mut Needs) {
        self.rebuilt = true;
        let like = self.alike(&kind.scope, PolicyId(u32::MAX));
        let Self {
            registry,
            settings,
            leases,
            ..
        } = self;
        let like = like.and_then(|other| Some((other, self.policies.get_mut(&other)?)));
        let policy = if let Some((other, policy)) = like {
            let (view, looked) = policy.view.in_scope(registry, kind.scope);
            let ids = (id, other);
            self.hosts.open_like(ids, &view, &looked.services, needs);
            policy.like(view, kind.audit, looked.plans, settings, leases)
        } else {
            let view = View::new(registry, kind.scope);
            self.hosts.open(id, &view, needs);
            PolicyState::new(view, kind.audit, settings, leases)
        };
        self.policies.insert(id, policy);
    }

    /// A policy with an id below `below` that sees almost the same as a scope.
    pub(super) fn alike(&self, scope: &Scope, below: PolicyId) -> Option<PolicyId> {
        let before = || self.policies.range(..below);
        let same = before().find(|(_, p)| p.view.scope.imports_as(scope));
        let near = || {
            let importing = before().filter(|(_, p)| p.view.scope.has_imports());
            let mut few = importing.take(CONSIDERED);
            few.find(|(_, p)| self.registry.are_near(&p.view.scope, scope))
        };
        same.or_else(near).map(|(id, _)| *id)
    }

    /// Ends a policy, and returns it.
    pub(super) fn close(
        &mut self,
        id: PolicyId,
        needs: &mut Needs,
    ) -> Option<(PolicyId, PolicyState)> {
        let policy = self.policies.remove(&id)?;
        self.rebuilt = true;
        self.hosts.close(id, needs);
        Some((id, policy))
    }
}
