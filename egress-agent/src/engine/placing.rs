//! Writes what the state machine decides to the kernel: tables, policies, and which cgroups are
//! under which. Owns the order of these writes; does not know who a workload is.

use super::ending::Ending;
use crate::kernel::Tables;
use crate::namespaces::{Services, Spaces};
use crate::sockets::SocketFactory;
use crate::workloads::{Told, Workloads};
use egress_core::policy::diff::TableOp;
use egress_core::policy::state::{State, Unlisted};
use std::sync::Arc;
use std::time::Instant;

/// See the module.
pub(super) struct Placing {
    pub(super) tables: Tables,
    pub(super) workloads: Workloads,
    pub(super) ending: Ending,
    /// A workload came, went or may have another policy.
    moved: bool,
}

impl Placing {
    /// No cgroup is placed yet.
    pub(super) fn new(tables: Tables, workloads: Workloads, ending: Ending) -> Self {
        Self {
            tables,
            workloads,
            ending,
            moved: true,
        }
    }

    /// Every cgroup may have another policy with the next [`Self::write`].
    pub(super) fn place_anew(&mut self) {
        self.moved = true;
    }

    /// Whether [`Self::write`] has something to do beside the writes that it is given.
    pub(super) fn is_due(&self) -> bool {
        self.moved
    }

    /// Hears of workloads that came and went: of those that came first, so that their policies
    /// stand before others end and before their cgroups are put under them. The kernel gives no id
    /// of a cgroup twice (`kernfs_new_node`).
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

    /// Policies, then the cgroups under them, then the end of policies that no cgroup is under: at
    /// no moment is a cgroup under a policy that is not there. Returns how many entries found no
    /// room.
    pub(super) fn write(&mut self, state: &mut State, ops: &[TableOp]) -> anyhow::Result<usize> {
        let ends = |op: &TableOp| matches!(op, TableOp::DeletePolicy(_));
        let (before, after) = ops.split_at(ops.iter().position(ends).unwrap_or(ops.len()));
        self.tables.expect(ops);
        let mut left_out = self.tables.apply(before)?;
        let mut left = Vec::new();
        if std::mem::take(&mut self.moved) {
            let policy_of = |id| Some(state.policy_of(id));
            left = self.workloads.place(&mut self.tables, policy_of)?;
        }
        left_out += self.tables.apply(after)?;
        if !left.is_empty() {
            // A program that looked up an owner before must not remember its verdict under the
            // generation that comes now.
            self.tables.wait_for_programs()?;
            state.handle_moved(left);
            left_out += self.tables.apply(&state.poll_ops())?;
            self.ending.end_moved();
        }
        // Workloads without a policy get those that came free, with another write.
        self.moved = state.place_closed(Instant::now());
        Ok(left_out)
    }

    /// What becomes of what no rule lists, by enforced root.
    pub(super) fn unlisted(&self, state: &State) -> Vec<Unlisted> {
        let roots = self.workloads.roots();
        roots.map(|id| state.unlisted(id)).collect()
    }

    /// Brings the proxy to where the workloads are.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        self.workloads.namespaces().settle(&mut self.tables).await
    }

    /// Serves in the agent's own namespace, in those of the workloads, and nowhere else.
    pub(super) async fn open(
        &mut self,
        sockets: Arc<SocketFactory>,
        services: Services,
    ) -> anyhow::Result<()> {
        let tables = &mut self.tables;
        let spaces = Spaces::open_own(sockets, services, tables).await?;
        self.workloads.namespaces().open(tables, spaces).await
    }

    /// Takes no redirected flow any more, in any namespace.
    pub(super) fn close(&mut self) -> anyhow::Result<()> {
        self.workloads.namespaces().withdraw(&mut self.tables)
    }
}
