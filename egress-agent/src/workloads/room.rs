//! Which cgroups share one workload's limit of served network namespaces. `namespaces` has the limit.

use super::cgroups::Cgroups;
use super::member::Member;
use super::sharers;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The ids of all cgroups of the workload that this cgroup belongs to.
pub(super) fn one_workload(
    roots: &[PathBuf],
    cgroups: &Cgroups,
    members: &BTreeMap<CgroupId, Member>,
    of: &Member,
) -> Vec<CgroupId> {
    let named = of.cgroup.folder.ancestors().find(|folder| {
        let known = cgroups.known(folder);
        let member = known.and_then(|cgroup| members.get(&cgroup.id));
        member.is_some_and(|m| m.workload.is_some())
    });
    let own = || roots[of.cgroup.root].join(sharers::sharer(&of.below));
    let whole = named.map_or_else(own, Path::to_path_buf);
    let inside = members
        .iter()
        .filter(|(_, m)| m.cgroup.folder.starts_with(&whole));
    inside.map(|(id, _)| *id).collect()
}
