//! How much of the network namespaces that the agent serves a workload has taken, over all of its
//! cgroups. What the bound is stands where the namespaces are looked for.

use super::{Workloads, sharers};
use crate::namespaces::processes::NsInode;
use std::collections::BTreeSet;
use std::path::Path;

impl Workloads {
    /// How many namespaces the workload of this cgroup has, in all of its cgroups.
    pub(super) fn namespaces_beside(&self, id: u64) -> usize {
        let Some(member) = self.members.get(&id) else {
            return 0;
        };
        let entry = member.cgroup.folder.ancestors().find(|folder| {
            let known = self.cgroups.known(folder);
            let member = known.and_then(|cgroup| self.members.get(&cgroup.id));
            member.is_some_and(|m| m.workload.is_some())
        });
        let root = &self.roots[member.cgroup.root];
        let own = || root.join(sharers::sharer(&member.below));
        let whole = entry.map_or_else(own, Path::to_path_buf);
        let members = self.members.values();
        let beside = members.filter(|m| m.cgroup.folder.starts_with(&whole));
        let all: BTreeSet<&NsInode> = beside.flat_map(|m| &m.namespaces).collect();
        all.len()
    }
}
