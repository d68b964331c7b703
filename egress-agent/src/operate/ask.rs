//! Questions to the running engine, each with a channel for the answer, and the facts that the engine
//! returns for `status`.

use crate::config::Mode;
use crate::kernel::Room;
use crate::workloads::{Placed, TooDeep};
use egress_core::policy::explain::{Explanation, Question};
use egress_core::policy::leases::Failure;
use egress_ebpf::ids::{CgroupId, Generation};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The engine's notes for `status`.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// The mode of workloads without a mode of their own.
    pub mode: Mode,
    /// Resources in force.
    pub objects: usize,
    /// Why the present content of the files is not in force.
    pub problem: Option<String>,
    /// The first problems of the files.
    pub problems: Vec<String>,
    /// The first documents and fields that were skipped or are not carried out.
    pub notes: Vec<String>,
    /// Workloads that are denied everything, because the kernel has no free policy.
    pub without_policy: usize,
}

/// The state of the rules and the workloads.
#[derive(Debug)]
pub struct Facts {
    /// The engine's notes.
    pub noted: Noted,
    /// Generation of the kernel's policies.
    pub generation: Generation,
    /// Policies, the default among them.
    pub policies: Room,
    /// Single addresses in the tables.
    pub addresses: Room,
    /// Networks in the tables.
    pub networks: Room,
    /// Listed names that are asked for.
    pub names: usize,
    /// Of them, those without an address: they are not in force yet.
    pub names_without_address: usize,
    /// Names whose last question failed, and why.
    pub failing: Vec<(Arc<str>, Failure)>,
    /// The first findings across objects: valid objects that together may not do what their author wants.
    pub findings: Vec<String>,
    /// Cgroups that are nested deeper than the kernel judges.
    pub too_deep: TooDeep,
    /// Cgroups below the roots.
    pub workloads: Vec<Placed>,
}

/// A question to the running engine, with the channel for the answer.
#[derive(Debug)]
pub enum Ask {
    /// The state of the rules and the workloads.
    Status(oneshot::Sender<Facts>),
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
}
