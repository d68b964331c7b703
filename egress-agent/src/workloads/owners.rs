//! The policy of each cgroup, as written to the kernel's table of owners.
//!
//! Knows the entries that were written. Does not decide which policy a workload has.

use crate::kernel::Tables;
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::BTreeMap;

/// The content of the kernel's table.
#[derive(Debug, Default)]
pub struct Owners(BTreeMap<CgroupId, PolicyId>);

impl Owners {
    /// The entries of a previous agent, which stay in force until they are overwritten.
    pub fn standing(tables: &Tables) -> anyhow::Result<Self> {
        Ok(Self(tables.owners()?))
    }

    /// The policy in a cgroup's own entry.
    pub fn of(&self, cgroup: CgroupId) -> Option<PolicyId> {
        self.0.get(&cgroup).copied()
    }

    /// Every cgroup that has an entry, with its policy.
    pub fn all(&self) -> &BTreeMap<CgroupId, PolicyId> {
        &self.0
    }

    /// Writes the entries that differ from `wanted`. Returns the former policies of cgroups that have
    /// another one from here on: verdicts that sockets stored under these must be judged again.
    pub fn become_these(
        &mut self,
        tables: &mut Tables,
        wanted: &BTreeMap<CgroupId, PolicyId>,
    ) -> anyhow::Result<Vec<PolicyId>> {
        let mut left = Vec::new();
        for (&cgroup, policy) in wanted {
            let before = self.0.get(&cgroup).copied();
            if before != Some(*policy) {
                tables.set_owner(cgroup, Some(*policy))?;
                self.0.insert(cgroup, *policy);
                left.push(before.unwrap_or(DEFAULT_POLICY));
            }
        }
        let gone: Vec<CgroupId> = self
            .0
            .keys()
            .filter(|id| !wanted.contains_key(*id))
            .copied()
            .collect();
        for cgroup in gone {
            tables.set_owner(cgroup, None)?;
            left.extend(self.0.remove(&cgroup));
        }
        left.sort_unstable();
        left.dedup();
        Ok(left)
    }
}
