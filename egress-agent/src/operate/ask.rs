//! Questions to the running engine, each with a channel for the answer, and the facts that the engine
//! returns for `status`.

use crate::operate::status::RulesStatus;
use crate::workloads::Placed;
use egress_core::dns::query::Question as Query;
use egress_core::policy::explain::{Explanation, Question};
use egress_ebpf::ids::CgroupId;
use tokio::sync::oneshot;

/// How much of the status is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Everything.
    Full,
    /// Numbers only: no names, lines or workloads. With many of them, copying takes a while.
    Numbers,
}

/// What the engine knows for `status`.
#[derive(Debug)]
pub struct Facts {
    /// The rules and the tables, without counters.
    pub rules: RulesStatus,
    /// Cgroups below the roots; none without [`Detail::Full`].
    pub workloads: Vec<Placed>,
}

/// A question to the running engine, with the channel for the answer.
#[derive(Debug)]
pub enum Ask {
    /// The state of the rules and the workloads.
    Status(Detail, oneshot::Sender<Facts>),
    /// The verdict on a destination.
    Explain {
        /// The destination.
        question: Box<Question>,
        /// Cgroup ids of the workload that would dial it, the deepest first; empty means the
        /// enforced root's default.
        workload: Vec<CgroupId>,
        /// The channel for the answer.
        answer: oneshot::Sender<Explanation>,
    },
    /// What happens to a DNS query.
    Query {
        /// The query.
        question: Query,
        /// As for a destination.
        workload: Vec<CgroupId>,
        /// The channel for the answer.
        answer: oneshot::Sender<Explanation>,
    },
}
