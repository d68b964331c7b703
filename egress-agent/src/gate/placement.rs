//! Whether the gate is where it should be: enforced roots around the workloads, pins in a file
//! system that outlives the agent. Looks at the machine and changes nothing.

use crate::cgroup2;
use crate::gate::roots::{pods_root, populated};
use crate::gate::started::Started;
use crate::kernel::canary::CAGE;
use crate::observe::trouble::Misplaced;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The machine's own pid namespace (`PROC_PID_INIT_INO` of include/linux/proc_ns.h).
const FIRST_PIDS: &str = "pid:[4026531836]";

/// Why the enforced roots do not contain the workloads, or `None` if this machine shows no such sign.
///
/// `alternatives`: the kubelet uses only one of the roots.
pub fn misplaced(started: &Started, roots: &[PathBuf], alternatives: bool) -> Option<Misplaced> {
    let mount = cgroup2::mount_point().ok()?;
    misplaced_in(&mount, started, roots, alternatives)
}

/// Whether this agent was started below an enforced root. If it runs in a pod, the other pods are below
/// that root too.
fn is_held(mount: &Path, started: &Started, roots: &[PathBuf]) -> bool {
    let own = mount.join(started.v2.trim_start_matches('/'));
    roots.iter().any(|root| own.starts_with(root))
}

fn misplaced_in(
    mount: &Path,
    started: &Started,
    roots: &[PathBuf],
    alternatives: bool,
) -> Option<Misplaced> {
    let covered = |pods: &Path| {
        let related = |r: &PathBuf| r.starts_with(pods) || pods.starts_with(r);
        roots.iter().any(related)
    };
    if let Some(pods) = started.pods_root() {
        let pods = mount.join(pods.strip_prefix("/").unwrap_or(pods));
        if !covered(&pods) {
            return Some(Misplaced::PodsOutside(pods));
        }
    } else if let Some(pod) = &started.v1_pod
        && !is_held(mount, started, roots)
    {
        return Some(Misplaced::PodsInVersion1 {
            pod: pod.clone(),
            v2: started.v2.clone(),
        });
    }
    let pods = pods_root(mount).filter(|pods| !covered(pods) && populated(pods));
    if alternatives
        && roots
            .iter()
            .any(|root| populated(root) || has_children(root))
    {
        return None;
    }
    for root in roots.iter().filter(|root| root.exists()) {
        let busy = populated(root);
        match &pods {
            Some(pods) if !busy => {
                return Some(Misplaced::PodsElsewhere {
                    root: root.clone(),
                    pods: pods.clone(),
                });
            }
            _ if !busy && !has_children(root) => {
                return Some(Misplaced::Empty(root.clone()));
            }
            _ => {}
        }
    }
    None
}

fn has_children(root: &Path) -> bool {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut folders = entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.any(|e| !e.file_name().to_string_lossy().starts_with(CAGE))
}

/// Whether the pins would disappear when the agent ends, as far as this process can see.
/// `mounted_here`: this process mounted the file system that contains them.
pub fn short_lived(pins: &Path, mounted_here: bool) -> bool {
    let Ok(pins) = fs::metadata(pins) else {
        return false;
    };
    let device = pins.dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    let first = fs::read_to_string("/proc/1/mountinfo").ok();
    let seen = first.as_ref().map(|text| mounts(text, &device));
    let machine = fs::read_link("/proc/self/ns/pid").is_ok_and(|p| p == Path::new(FIRST_PIDS));
    let outlives = (seen == Some(true) && std::process::id() != 1 && (machine || !mounted_here))
        || seen_elsewhere(&device);
    !outlives && (seen == Some(false) || mounted_here)
}

/// Whether a file system is mounted according to `/proc/PID/mountinfo`, whose field 3 is the device.
fn mounts(text: &str, device: &str) -> bool {
    text.lines().any(|l| l.split(' ').nth(2) == Some(device))
}

/// Whether another mount namespace than this process's has the file system mounted.
fn seen_elsewhere(device: &str) -> bool {
    let Ok(own) = fs::read_link("/proc/self/ns/mnt") else {
        return false;
    };
    let mut known = BTreeSet::from([own]);
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.map(|p| p.path()).any(|process| {
        // Skips processes that this one may not inspect.
        fs::read_link(process.join("ns/mnt")).is_ok_and(|namespace| known.insert(namespace))
            && fs::read_to_string(process.join("mountinfo")).is_ok_and(|text| mounts(&text, device))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: &str = "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f1e2d3c_4b5a_6978_8796_a5b4c3d2e1f0.slice";

    /// Creates folders that look like cgroups; those with a star have a process.
    fn tree(folders: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for folder in folders {
            let (name, busy) = match folder.strip_suffix('*') {
                Some(name) => (name, 1),
                None => (*folder, 0),
            };
            let folder = dir.path().join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(
                folder.join("cgroup.events"),
                format!("populated {busy}\nfrozen 0\n"),
            )
            .unwrap();
        }
        dir
    }

    fn why(tree: &tempfile::TempDir, own: &str, roots: &[&str]) -> Option<String> {
        why_of(tree, own, roots, false)
    }

    fn why_of(
        tree: &tempfile::TempDir,
        own: &str,
        roots: &[&str],
        alternatives: bool,
    ) -> Option<String> {
        let roots: Vec<PathBuf> = roots.iter().map(|r| tree.path().join(r)).collect();
        let why = misplaced_in(tree.path(), &Started::read(own), &roots, alternatives);
        why.map(|why| why.to_string())
    }

    #[test]
    fn of_alternatives_one_with_workloads_is_enough() {
        let service = "0::/system.slice/egress-agent.service\n";
        let both = ["kubepods", "kubepods.slice"];
        for (folders, told) in [
            (&["kubepods", "kubepods.slice*"][..], None),
            (&["kubepods", "kubepods.slice", "kubepods/pod1"], None),
            (&["kubepods"], Some("no workload is below")),
            (
                &["kubepods.slice", "x.slice/x-kubepods.slice*"],
                Some("x-kubepods.slice"),
            ),
        ] {
            let node = tree(folders);
            let why = why_of(&node, service, &both, true);
            match told {
                None => assert_eq!(why, None, "{folders:?}"),
                Some(part) => assert!(why.unwrap().contains(part), "{folders:?}"),
            }
        }
        // Roots that the config names are all needed.
        let node = tree(&["kubepods", "kubepods.slice*"]);
        assert!(why(&node, service, &both).is_some());
    }

    #[test]
    fn a_pod_outside_every_root_says_where_the_pods_are() {
        let node = tree(&["kubepods.slice*", "behind*"]);
        let own = format!("0::/{POD}/cri-containerd-x.scope\n");
        let told = why(&node, &own, &["behind"]).unwrap();
        let wanted = format!(
            "cgroups: [{}]",
            node.path().join("kubepods.slice").display()
        );
        assert!(told.contains(&wanted), "{told}");
        assert_eq!(why(&node, &own, &["kubepods.slice"]), None);
    }

    #[test]
    fn an_empty_root_beside_running_pods_is_misplaced_and_a_used_one_is_not() {
        let node = tree(&["kubepods*", "behind", "behind/a", "used*"]);
        let service = "0::/system.slice/egress-agent.service\n";
        let told = why(&node, service, &["behind"]).unwrap();
        assert!(told.contains("pods run below"), "{told}");
        assert_eq!(why(&node, service, &["used"]), None);
        assert_eq!(why(&node, service, &["kubepods"]), None);
    }

    #[test]
    fn a_root_without_workloads_is_misplaced_until_one_comes() {
        let machine = tree(&["gated", "other*"]);
        let service = "0::/system.slice/egress-agent.service\n";
        let told = why(&machine, service, &["gated"]).unwrap();
        assert!(told.contains("no workload"), "{told}");
        fs::create_dir(machine.path().join("gated/egress-canary-7")).unwrap();
        assert!(why(&machine, service, &["gated"]).is_some());
        fs::create_dir(machine.path().join("gated/web.service")).unwrap();
        assert_eq!(why(&machine, service, &["gated"]), None);
    }

    #[test]
    fn pods_that_are_in_version_1_only_cannot_be_held() {
        let node = tree(&["kubepods*"]);
        let own =
            "4:memory:/kubepods/burstable/pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0/abc\n0::/\n";
        let told = why(&node, own, &["kubepods"]).unwrap();
        assert!(told.contains("version 1"), "{told}");
    }

    #[test]
    fn a_mount_is_found_by_its_device() {
        let text = "30 23 0:26 / /sys/fs/bpf rw - bpf bpf rw\n";
        assert!(mounts(text, "0:26") && !mounts(text, "0:2"));
    }
}
