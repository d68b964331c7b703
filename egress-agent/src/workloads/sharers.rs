//! The cgroups that have one share of the proxy each, for flows that no entry of `workloads` matches: the
//! enforced roots, and below them each pod and each service or scope of systemd. A process that creates
//! cgroups below its own gets no further share by that.
//!
//! The proxy counts the shares.

use super::names;
use egress_ebpf::ids::CgroupId;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

/// See the module. Clones share the set.
#[derive(Clone, Debug, Default)]
pub struct Sharers(Arc<RwLock<BTreeSet<CgroupId>>>);

impl Sharers {
    pub(super) fn add(&self, cgroup: CgroupId) {
        let mut set = self.0.write().unwrap_or_else(PoisonError::into_inner);
        set.insert(cgroup);
    }

    pub(super) fn remove(&self, cgroup: CgroupId) {
        let mut set = self.0.write().unwrap_or_else(PoisonError::into_inner);
        set.remove(&cgroup);
    }

    /// The sharer of a flow, from the cgroups that its socket is in, deepest first. If none of them is
    /// known yet, it is the uppermost, which the flow shares with all its neighbours; without any, 0.
    pub fn of(&self, owners: &[CgroupId]) -> CgroupId {
        let set = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = owners.iter().find(|id| set.contains(id));
        known.or(owners.last()).copied().unwrap_or_default()
    }
}

/// The sharer's part of a path below an enforced root: the path to the first folder that does not merely
/// group others. Empty for processes of the root itself and of a group.
pub(super) fn sharer(below: &str) -> &Path {
    let below = Path::new(below);
    let mut upper: Vec<&Path> = below.ancestors().collect();
    upper.reverse();
    let groups = |path: &&Path| {
        path.file_name()
            .is_none_or(|name| groups(&name.to_string_lossy()))
    };
    upper
        .into_iter()
        .find(|path| !groups(path))
        .unwrap_or(Path::new(""))
}

/// Whether a folder groups workloads: a slice of systemd that is not a pod, or a folder of the kubelet, of
/// Docker or of Podman with the cgroupfs driver.
fn groups(name: &str) -> bool {
    let kept = [
        "kubepods",
        "burstable",
        "besteffort",
        "docker",
        "libpod_parent",
    ];
    kept.contains(&name)
        || (name.strip_suffix(".slice").is_some() && names::read(name).pod.is_none())
}

#[cfg(test)]
mod tests {
    use super::{Sharers, sharer};
    use egress_ebpf::ids::CgroupId;

    const POD: &str = "pod12345678-1234-1234-1234-123456789abc";

    #[test]
    fn a_pod_or_a_service_is_one_however_many_cgroups_it_makes() {
        let slice = "kubepods-burstable-pod12345678_1234_1234_1234_123456789abc.slice";
        let slices = format!("kubepods.slice/kubepods-burstable.slice/{slice}");
        let folders = format!("kubepods/burstable/{POD}");
        for (below, own) in [
            (String::new(), ""),
            ("shop-1".into(), "shop-1"),
            (format!("shop-1/a/{POD}"), "shop-1"),
            ("app.service/x.slice/y.service".into(), "app.service"),
            (
                "user.slice/user-1.slice/user@1.service/app.slice/b.scope".into(),
                "user.slice/user-1.slice/user@1.service",
            ),
            ("kubepods.slice/kubepods-burstable.slice".into(), ""),
            (slices.clone(), &slices),
            (format!("{slices}/cri-containerd-1.scope/{POD}"), &slices),
            (folders.clone(), &folders),
            (format!("{folders}/0123/made"), &folders),
            (format!("docker/0123/{POD}"), "docker/0123"),
        ] {
            assert_eq!(sharer(&below).to_str(), Some(own), "{below}");
        }
    }

    #[test]
    fn cgroups_of_one_sharer_have_one_and_unknown_ones_all_the_same() {
        let sharers = Sharers::default();
        let of = |owners: &[u64]| {
            let owners: Vec<CgroupId> = owners.iter().copied().map(CgroupId).collect();
            sharers.of(&owners).0
        };
        sharers.add(CgroupId(5));
        assert_eq!(of(&[10, 5, 1]), of(&[12, 11, 5, 1]));
        assert_eq!(of(&[10, 5, 1]), 5);
        assert_eq!((of(&[20, 1]), of(&[21, 1])), (1, 1));
        assert_eq!(of(&[]), 0);
        sharers.remove(CgroupId(5));
        assert_eq!(of(&[10, 5, 1]), 1);
    }
}
