//! The owner and the original destination of a redirected flow.
//!
//! It does not look them up.

use egress_core::routing::RouteTable;
use egress_ebpf::abi::CLOSED_POLICY;
use egress_ebpf::ids::{CgroupId, NetnsCookie, PolicyId};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

/// The owner and the original destination of a redirected flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What the client dialled.
    pub destination: SocketAddr,
    /// The policy of the socket's owner when the flow was redirected. It is for reports only: by now its id may
    /// belong to another view, so no verdict depends on it.
    pub policy: PolicyId,
    /// The cgroup id of the socket's owner.
    pub cgroup: CgroupId,
    /// That cgroup and those above it below the enforced root, deepest first; empty if the kernel
    /// does not know them, and the flow is denied then.
    pub owners: Vec<CgroupId>,
    /// The cgroup among them whose share of the proxy the flow takes if none has a policy of its
    /// own: one that the workload cannot multiply.
    pub sharer: CgroupId,
    /// The process that connected.
    pub pid: u32,
    /// Its name, as the kernel has it (at most 15 bytes).
    pub comm: String,
    /// The network namespace (its cookie) that upstream connections are made in.
    pub netns: NetnsCookie,
}

impl Origin {
    /// The owner's present policy. Each judgement asks for it, because a workload may get another
    /// policy while its connections run, and another view may get the id.
    pub fn policy_in(&self, routes: &RouteTable) -> PolicyId {
        if self.has_unknown_owner() {
            CLOSED_POLICY
        } else {
            routes.policy_of(&self.owners)
        }
    }

    /// Whether the kernel knows the socket's cgroup but not the cgroups above it, because its map of these is
    /// limited. The flow's workload is then unknown, and the hooks also deny such a flow with `unknown-owner`. A
    /// socket without a cgroup has the enforced root's default policy, as in the hooks.
    pub(super) fn has_unknown_owner(&self) -> bool {
        self.owners.is_empty() && self.cgroup != CgroupId(0)
    }

    /// The cgroup whose share of the proxy the flow takes: the deepest of its owners that has a
    /// policy of its own. That is the workload's cgroup, however many cgroups it creates below.
    pub(super) fn share_in(&self, routes: &RouteTable) -> CgroupId {
        let mut owners = self.owners.iter();
        let named = owners.find(|id| routes.owners.contains_key(id));
        named.copied().unwrap_or(self.sharer)
    }
}

/// Finds the original destination of an accepted connection.
pub trait OriginLookup: Send + Sync {
    /// The origin of the flow; `None` if the kernel did not redirect it here. Such a flow is closed.
    fn origin(&self, accepted: BorrowedFd<'_>) -> Option<Origin>;
}
