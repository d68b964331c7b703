//! A cgroup below an enforced root: its stored state, and the part that `status` shows.

use super::cgroups::Cgroup;
use super::names;
use crate::config::Mode;
use crate::namespaces::Counted;
use egress_core::registry::scope::Workload;
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::sync::Arc;

/// A cgroup that is a workload, or has network namespaces of its own, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its path in the hierarchy.
    pub cgroup: String,
    /// The kernel's id.
    pub id: CgroupId,
    /// Who it is; none where no entry names it.
    pub identity: Option<String>,
    /// What its path says of the pod and the container.
    pub name: names::CgroupName,
    /// A mode of its own.
    pub mode: Option<Mode>,
    /// A policy of its own.
    pub policy: Option<PolicyId>,
    /// Network namespaces of its processes.
    pub namespaces: Counted,
}

/// A cgroup and what is known of it.
pub(super) struct Member {
    /// The cgroup.
    pub cgroup: Arc<Cgroup>,
    /// Its path in the hierarchy.
    pub path: String,
    /// Its path below the enforced root.
    pub below: String,
    /// Who it is; none where no entry names it.
    pub workload: Option<Workload>,
}
