//! What one policy lists, as far as queries are judged by it: a part of one immutable snapshot.

use super::settings::QuerySettings;
use crate::policy::naming::Names;
use crate::policy::state::Unlisted;
use crate::registry::services::Service;
use crate::routing::RouteTable;
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::net::IpAddr;
use std::sync::Arc;

/// The snapshot by which queries are judged. Its parts are of the same moment.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// The policies, and those of each cgroup.
    pub routes: Arc<RouteTable>,
    /// The hosts of each policy, and the names of each address.
    pub names: Names,
    /// The settings.
    pub settings: Arc<QuerySettings>,
    /// Raised when listed names may be judged differently, see [`Self::judges_as`].
    pub version: u64,
}

impl Directory {
    /// What the workload in these cgroups (deepest first) may ask.
    pub fn of_workload(&self, cgroups: &[CgroupId]) -> Listing<'_> {
        self.listing(self.routes.policy_of(cgroups))
    }

    /// Whether names that rules list are judged as by another snapshot. Both must be in memory: parts that are at the same
    /// place have not changed.
    pub fn judges_as(&self, other: &Self) -> bool {
        self.names.lists_as(&other.names) && Arc::ptr_eq(&self.settings, &other.settings)
    }

    /// What workloads of a policy may ask. A policy that does not exist lists nothing.
    pub fn listing(&self, policy: PolicyId) -> Listing<'_> {
        Listing {
            directory: self,
            policy,
        }
    }
}

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'a> {
    directory: &'a Directory,
    /// Whose policy.
    pub policy: PolicyId,
}

impl<'a> Listing<'a> {
    /// The settings.
    pub fn settings(&self) -> &'a QuerySettings {
        &self.directory.settings
    }

    /// What is done with a query that the policy does not list.
    pub fn unlisted(&self) -> Unlisted {
        let policy = self.directory.routes.policies.get(&self.policy);
        match policy {
            Some(policy) if policy.passes_everything() => Unlisted::Passes,
            Some(policy) if policy.audit => Unlisted::Recorded,
            Some(_) | None => Unlisted::Denied,
        }
    }

    /// The services that list a name, the most specific first.
    pub fn services(&self, name: &str) -> Vec<&'a Arc<Service>> {
        self.directory.names.listing(self.policy, name)
    }

    /// Whether a name is listed.
    pub fn lists(&self, name: &str) -> bool {
        self.directory.names.lists(self.policy, name)
    }

    /// Listed names that lease this address.
    pub(super) fn leased_by(&self, addr: IpAddr) -> Vec<&'a Arc<str>> {
        self.directory.names.leased_by(self.policy, addr)
    }
}
