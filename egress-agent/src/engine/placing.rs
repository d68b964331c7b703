//! Writes the decisions of the state machine to the kernel: tables, policies, and the policy of each
//! cgroup. Owns the order of these writes. Does not know the identities of workloads.

use super::ending::Ending;
use super::rejudge::Rejudge;
use crate::kernel::{NoRoom, Tables};
use crate::namespaces::{Services, Spaces};
use crate::sockets::SocketFactory;
use crate::workloads::{Told, Workloads};
use anyhow::Context as _;
use egress_core::policy::diff::TableOp;
use egress_core::policy::state::{Plan, State, Unlisted};
use egress_ebpf::ids::PolicyId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// See the module.
pub(super) struct Placing {
    pub(super) tables: Tables,
    pub(super) workloads: Workloads,
    pub(super) ending: Ending,
    pub(super) rejudge: Rejudge,
    /// A workload appeared, disappeared or may have another policy.
    moved: bool,
}

impl Placing {
    /// No cgroup is placed yet.
    pub(super) fn new(
        tables: Tables,
        workloads: Workloads,
        ending: Ending,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            rejudge: Rejudge::new(tables.grace()?),
            tables,
            workloads,
            ending,
            moved: true,
        })
    }

    /// Every cgroup may have another policy with the next [`Self::write`].
    pub(super) fn place_anew(&mut self) {
        self.moved = true;
    }

    /// Whether [`Self::write`] must update the policies of cgroups.
    pub(super) fn is_due(&self) -> bool {
        self.moved
    }

    /// Whether the tables have room for a plan. The engine asks before the first write, so that it does not start a
    /// change that does not fit.
    pub(super) fn fits(&self, plan: &Plan<'_>) -> Result<(), NoRoom> {
        plan.fits()?;
        self.tables.fits(plan.ops())
    }

    /// Passes on which workloads appeared and disappeared. New ones come first, so that a policy that they
    /// share with a workload that is gone does not end. The order is safe because the kernel never uses
    /// the id of a cgroup twice (`kernfs_new_node`).
    pub(super) fn hear(&mut self, state: &mut State, mut told: Vec<Told>) {
        let now = Instant::now();
        self.moved |= !told.is_empty();
        told.sort_by_key(|news| matches!(news, Told::Gone(_)));
        for news in told {
            match news {
                Told::Workload(cgroup, workload) => state.handle_workload(now, cgroup, workload),
                Told::Gone(cgroup) => state.forget_workload(now, cgroup),
            }
        }
    }

    /// Writes policies, then the policy of each cgroup, and deletes unused policies last, so that a cgroup
    /// never has a policy that does not exist. Returns how many entries the tables had no room for. What sockets
    /// remember of former policies is judged again later: [`Self::judge_again`].
    pub(super) fn write(&mut self, state: &mut State, ops: &[TableOp]) -> anyhow::Result<usize> {
        let ends = |op: &TableOp| matches!(op, TableOp::DeletePolicy(_));
        let (before, after) = ops.split_at(ops.iter().position(ends).unwrap_or(ops.len()));
        self.tables.expect(ops);
        let mut left_out = self.tables.apply(before)?;
        if std::mem::take(&mut self.moved) {
            let policy_of = |id| Some(state.policy_of(id));
            let left = self.workloads.place(&mut self.tables, policy_of)?;
            self.rejudge.left(left);
        }
        left_out += self.tables.apply(after)?;
        // Workloads without a policy get the ids that are free by now, in another write.
        self.moved = state.place_closed(Instant::now());
        Ok(left_out)
    }

    /// What sockets remember of these policies is judged again from here on.
    pub(super) fn judge_again(
        &mut self,
        state: &mut State,
        policies: BTreeSet<PolicyId>,
    ) -> anyhow::Result<()> {
        if !policies.is_empty() {
            state.handle_moved(policies);
            self.tables.apply(&state.poll_ops())?;
            self.ending.end_moved();
        }
        if self.rejudge.is_settled() {
            self.tables.settle_owners()?;
        }
        Ok(())
    }

    /// Takes up what an agent that ended too early left to be judged again.
    pub(super) fn take_up(&mut self) -> anyhow::Result<()> {
        let left = self.tables.unsettled();
        self.rejudge
            .left(left.context("reading whether sockets hold former verdicts")?);
        Ok(())
    }

    /// The same at once for all policies that cgroups have left.
    pub(super) fn judge_all_again(&mut self, state: &mut State) -> anyhow::Result<()> {
        let policies = self.rejudge.all()?;
        self.judge_again(state, policies)
    }

    /// The verdict on unlisted destinations, by enforced root.
    pub(super) fn unlisted(&self, state: &State) -> Vec<Unlisted> {
        let roots = self.workloads.roots();
        roots.map(|id| state.unlisted(id)).collect()
    }

    /// Opens and closes the proxy's listeners, so that they are where the workloads are.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        self.workloads.namespaces().settle(&mut self.tables).await
    }

    /// Opens listeners in the agent's own namespace and in those of the workloads.
    pub(super) async fn open(
        &mut self,
        sockets: Arc<SocketFactory>,
        services: Services,
    ) -> anyhow::Result<()> {
        let tables = &mut self.tables;
        let spaces = Spaces::open_own(sockets, services, tables).await?;
        self.workloads.namespaces().open(tables, spaces).await
    }

    /// Stops the redirects in every namespace: new flows that need the proxy are denied.
    pub(super) fn close(&mut self) -> anyhow::Result<()> {
        self.workloads.namespaces().withdraw(&mut self.tables)
    }
}
