//! The engine's part with workloads: hears of them, puts their cgroups under their policies and
//! brings the proxy to their namespaces. In which order stands here; who a workload is does not.

use super::Engine;
use crate::sockets::NetnsId;
use crate::workloads::Told;
use egress_core::policy::diff::TableOp;
use egress_ebpf::abi::DenyEvent;
use egress_ebpf::verdict::Reason;
use std::time::Instant;

impl Engine {
    /// Policies, then the cgroups under them, then the end of policies that no cgroup is under: at
    /// no moment is a cgroup under a policy that is not there.
    pub(super) fn write(&mut self, ops: &[TableOp]) -> anyhow::Result<()> {
        let ends = ops
            .iter()
            .position(|op| matches!(op, TableOp::DeletePolicy(_)));
        let (before, after) = ops.split_at(ends.unwrap_or(ops.len()));
        let mut left_out = self.tables.apply(before)?;
        if std::mem::take(&mut self.moved) {
            let policy_of = |id| Some(self.state.policy_of(id));
            let left = self.workloads.place(&mut self.tables, policy_of)?;
            self.state.handle_moved(left);
        }
        left_out += self.tables.apply(after)?;
        let renewed = self.state.poll_ops();
        left_out += self.tables.apply(&renewed)?;
        if left_out > 0 {
            self.shown.left_out += left_out as u64;
            tracing::error!(
                left_out,
                "the table is full: addresses of listed names are left out and refused"
            );
        }
        if !ops.is_empty() {
            tracing::debug!(
                writes = ops.len(),
                generation = self.state.generation(),
                "tables written"
            );
        }
        Ok(())
    }

    /// Hears of workloads that came and went.
    pub(super) fn hear(&mut self, told: Vec<Told>) {
        let now = Instant::now();
        self.moved |= !told.is_empty();
        for news in told {
            match news {
                Told::Workload(cgroup, workload) => {
                    self.state.handle_workload(now, cgroup, workload);
                }
                Told::Gone(cgroup) => self.state.forget_workload(now, cgroup),
            }
        }
    }

    /// A refusal whose cause may be that the proxy is not where the flow is.
    pub(super) fn missed(&mut self, event: &DenyEvent) {
        if event.reason == Reason::NoProxy as u8 {
            self.workloads.missed(event.cgroup);
        }
    }

    /// Brings the proxy to where the workloads are.
    pub(super) async fn settle(&mut self) -> anyhow::Result<()> {
        self.workloads.settle(&mut self.tables).await
    }

    /// Tells the kernel where the proxy listens, and of nowhere else.
    pub async fn open(&mut self, own: NetnsId, port: u16) -> anyhow::Result<()> {
        self.tables.set_proxy(own.0, Some(port))?;
        self.settle().await?;
        self.workloads.tidy(&mut self.tables, own)
    }

    /// Tells the kernel that the proxy listens nowhere any more: what is still to come is refused
    /// with a reason instead of running into a closed port.
    pub fn close(&mut self, own: NetnsId) -> anyhow::Result<()> {
        self.tables.set_proxy(own.0, None)?;
        self.workloads.withdraw(&mut self.tables)
    }

    /// Waits for the flows in other namespaces to end, which the drain makes sure of.
    pub async fn drained(&mut self) {
        self.workloads.drained().await;
    }
}
