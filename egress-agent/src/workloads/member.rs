//! A cgroup below an enforced root: its stored state, and the part that `status` shows.

use super::cgroups::Cgroup;
use super::identities::PodNames;
use super::names;
use crate::config::Mode;
use crate::namespaces::Counted;
use egress_core::registry::scope::Workload;
use egress_ebpf::ids::{CgroupId, PolicyId};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A cgroup that is a workload, or has network namespaces of its own, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its path in the hierarchy.
    pub cgroup: String,
    /// The kernel's id.
    pub id: CgroupId,
    /// Its identity; `None` if no entry matches.
    pub identity: Option<String>,
    /// The pod and the container in its path.
    pub name: names::CgroupName,
    /// The pod that it belongs to, if the API knows it.
    pub pod: Option<PodNames>,
    /// A mode of its own.
    pub mode: Option<Mode>,
    /// A policy of its own.
    pub policy: Option<PolicyId>,
    /// Network namespaces of its processes.
    pub namespaces: Counted,
}

/// A cgroup and its known state.
pub(super) struct Member {
    /// The cgroup.
    pub cgroup: Arc<Cgroup>,
    /// Its path in the hierarchy.
    pub path: String,
    /// Its path below the enforced root.
    pub below: String,
    /// The uid of the pod that it is.
    pub pod: Option<String>,
    /// Its identity; `None` if nothing gives it one.
    pub workload: Option<Workload>,
}

/// Numbers of cgroups below the enforced roots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Workloads with an identity.
    pub known: usize,
    /// Without an identity, in network namespaces of their own.
    pub unknown: usize,
}
