//! What the engine tells whoever asks: how the rules stand and what becomes of a destination. Nothing
//! of it changes a verdict.

use super::Engine;
use crate::kernel::Room;
use crate::operate::status::{RulesStatus, TableStatus, WorkloadStatus};
use egress_core::policy::explain::{Explanation, Question};
use egress_ebpf::abi::DEFAULT_POLICY;
use tokio::sync::oneshot;

/// A question to the running engine, with the way back.
#[derive(Debug)]
pub enum Ask {
    /// How the rules stand, and who is under them.
    Status(oneshot::Sender<(RulesStatus, Vec<WorkloadStatus>)>),
    /// What becomes of a destination.
    Explain {
        /// The destination.
        question: Box<Question>,
        /// Cgroup ids of the workload that would dial it, the deepest first; none is the enforced
        /// root's default.
        workload: Vec<u64>,
        /// The way back.
        answer: oneshot::Sender<Explanation>,
    },
}

impl Engine {
    /// Answers; whoever asked may have left.
    pub(super) fn reply(&mut self, ask: Ask) {
        match ask {
            Ask::Status(answer) => {
                let _ = answer.send((self.status(), self.workloads.status()));
            }
            Ask::Explain {
                question,
                workload,
                answer,
            } => {
                // As the kernel finds it: the deepest cgroup that has a policy.
                let mut owners = workload.into_iter().filter_map(|id| self.state.owned(id));
                let policy = owners.next().unwrap_or(DEFAULT_POLICY);
                let _ = answer.send(self.state.explain(policy, &question));
            }
        }
    }

    fn status(&self) -> RulesStatus {
        let (exact, ranges) = self.tables.room();
        let table = |room: Room| TableStatus {
            used: room.used,
            limit: room.limit,
        };
        let failing = self.state.failing().into_iter();
        RulesStatus {
            generation: self.state.generation(),
            addresses: table(exact),
            networks: table(ranges),
            failing: failing
                .map(|(n, f)| (n.to_string(), f.to_string()))
                .collect(),
            findings: self.findings(),
            too_deep: self.workloads.too_deep(),
            flows_ended: self.ending.ended(),
            ..self.shown.clone()
        }
    }
}
