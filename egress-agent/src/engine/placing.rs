//! The engine's part with workloads: hears of them, puts their cgroups under their policies and
//! brings the proxy to their namespaces. In which order stands here; who a workload is does not.

use super::Engine;
use crate::namespaces::{Services, Spaces};
use crate::sockets::SocketFactory;
use crate::workloads::Told;
use egress_core::policy::diff::TableOp;
use std::sync::Arc;
use std::time::Instant;

impl Engine {
    /// Hears of workloads that came and went: of those that came first, so that their policies
    /// stand before others end and before their cgroups are put under them. The kernel gives no id
    /// of a cgroup twice (`kernfs_new_node`).
    pub(super) fn hear(&mut self, mut told: Vec<Told>) {
        let now = Instant::now();
        self.moved |= !told.is_empty();
        told.sort_by_key(|news| matches!(news, Told::Gone(_)));
        for news in told {
            match news {
                Told::Workload(cgroup, workload) => {
                    self.state.handle_workload(now, cgroup, workload);
                }
                Told::Gone(cgroup) => self.state.forget_workload(now, cgroup),
            }
        }
    }

    /// Policies, then the cgroups under them, then the end of policies that no cgroup is under: at
    /// no moment is a cgroup under a policy that is not there. Returns how many entries found no
    /// room.
    pub(super) fn write(&mut self, ops: &[TableOp]) -> anyhow::Result<usize> {
        let ends = |op: &TableOp| matches!(op, TableOp::DeletePolicy(_));
        let (before, after) = ops.split_at(ops.iter().position(ends).unwrap_or(ops.len()));
        let mut left_out = self.tables.apply(before)?;
        let mut left = Vec::new();
        if std::mem::take(&mut self.moved) {
            let policy_of = |id| Some(self.state.policy_of(id));
            left = self.workloads.place(&mut self.tables, policy_of)?;
            self.tell_of_closed();
        }
        left_out += self.tables.apply(after)?;
        if !left.is_empty() {
            // A program that looked up an owner before must not remember its verdict under the
            // generation that comes now.
            self.tables.wait_for_programs()?;
            self.state.handle_moved(left);
            left_out += self.tables.apply(&self.state.poll_ops())?;
            self.ending.end_moved();
        }
        if self.state.place_closed(Instant::now()) {
            self.moved = true;
            self.publish();
            let ops = self.state.poll_ops();
            left_out += self.write(&ops)?;
        }
        let roots = self.workloads.roots();
        let unlisted = roots.map(|id| self.state.unlisted(id)).collect();
        self.news.canaries.expect(unlisted);
        Ok(left_out)
    }

    /// Views can be more than the kernel has policies.
    fn tell_of_closed(&mut self) {
        let before = self.noted.without_policy;
        self.noted.without_policy = self.state.without_policy();
        if self.noted.without_policy > before {
            tracing::error!(
                workloads = self.noted.without_policy,
                "more different views than the kernel has policies: these workloads are refused \
                 everything until others go or share a view"
            );
        }
    }

    /// Brings the proxy to where the workloads are.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        self.workloads.namespaces().settle(&mut self.tables).await
    }

    /// Serves in the agent's own namespace, in those of the workloads, and nowhere else.
    pub async fn open(
        &mut self,
        sockets: Arc<SocketFactory>,
        services: Services,
    ) -> anyhow::Result<()> {
        let tables = &mut self.tables;
        let spaces = Spaces::open_own(sockets, services, tables).await?;
        self.workloads.namespaces().open(tables, spaces).await
    }

    /// Takes no redirected flow any more, in any namespace.
    pub fn close(&mut self) -> anyhow::Result<()> {
        self.workloads.namespaces().withdraw(&mut self.tables)
    }

    /// Waits for the flows through the proxy to end, which a drain makes sure of.
    pub async fn drained(&mut self) {
        self.workloads.namespaces().drained().await;
    }
}
