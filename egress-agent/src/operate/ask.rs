//! Questions to the running engine, each with a channel for the answer, and the engine's facts for
//! `status`.

use crate::config::Mode;
use crate::kernel::Room;
use crate::workloads::{Placed, TooDeep};
use egress_core::policy::explain::{Explanation, Question};
use egress_core::policy::leases::Failure;
use egress_ebpf::ids::{CgroupId, Generation};
use std::sync::Arc;
use tokio::sync::oneshot;

/// What the engine notes as it happens, for `status`.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// That of workloads without a mode of their own.
    pub mode: Mode,
    /// Resources in force.
    pub objects: usize,
    /// Why the rules as they are now are not in force.
    pub problem: Option<String>,
    /// What is wrong with the files; the first of them.
    pub problems: Vec<String>,
    /// What was skipped or is not carried out; the first of them.
    pub notes: Vec<String>,
    /// Workloads that are denied everything, because there are no more policies.
    pub without_policy: usize,
}

/// How the rules stand, and who is under them.
#[derive(Debug)]
pub struct Facts {
    /// What was noted as it happened.
    pub noted: Noted,
    /// Generation of the kernel's policies.
    pub generation: Generation,
    /// Policies, the default among them.
    pub policies: Room,
    /// Single addresses in the tables.
    pub addresses: Room,
    /// Networks in the tables.
    pub networks: Room,
    /// Names whose last question failed, and why.
    pub failing: Vec<(Arc<str>, Failure)>,
    /// What objects do together that their author may not want; the first of them.
    pub findings: Vec<String>,
    /// Cgroups that are nested deeper than the kernel judges.
    pub too_deep: TooDeep,
    /// Cgroups below the roots.
    pub workloads: Vec<Placed>,
}

/// A question to the running engine, with the way back.
#[derive(Debug)]
pub enum Ask {
    /// How the rules stand, and who is under them.
    Status(oneshot::Sender<Facts>),
    /// What becomes of a destination.
    Explain {
        /// The destination.
        question: Box<Question>,
        /// Cgroup ids of the workload that would dial it, the deepest first; none is the enforced
        /// root's default.
        workload: Vec<CgroupId>,
        /// The way back.
        answer: oneshot::Sender<Explanation>,
    },
}
