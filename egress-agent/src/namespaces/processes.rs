//! Finds the network namespaces of a cgroup's processes in `/proc`.
//!
//! The inode of a namespace's file (nsfs) identifies it. The inode is unique while the namespace
//! exists. Makes no socket.

use egress_ebpf::ids::NetnsInode;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The most processes of one cgroup that are read. A cgroup with several namespaces is rare, and its
/// first process in each of them usually comes early in the list.
const LOOKED_AT: usize = 1024;

/// The namespace of the agent itself.
pub fn own() -> io::Result<NetnsInode> {
    Ok(NetnsInode(fs::metadata("/proc/self/ns/net")?.ino()))
}

/// The namespaces of the processes in a cgroup, each with one of its processes. Does not include the
/// cgroups below. Empty for a cgroup that is empty or gone.
pub fn namespaces(cgroup: &Path) -> BTreeMap<NetnsInode, u32> {
    let mut found = BTreeMap::new();
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process that is not visible in this pid namespace.
    let pids = procs.lines().filter_map(|line| line.parse().ok());
    for pid in pids.filter(|pid| *pid != 0).take(LOOKED_AT) {
        // Skips a process that has ended since.
        if let Ok(file) = fs::metadata(path(pid)) {
            found.entry(NetnsInode(file.ino())).or_insert(pid);
        }
    }
    found
}

/// Opens the namespace of a process, which keeps it alive. Fails if the process is in another one than
/// `seen` by now.
pub fn hold(pid: u32, seen: NetnsInode) -> io::Result<OwnedFd> {
    let file = File::open(path(pid))?;
    if NetnsInode(file.metadata()?.ino()) == seen {
        Ok(file.into())
    } else {
        Err(io::ErrorKind::NotFound.into())
    }
}

fn path(pid: u32) -> String {
    format!("/proc/{pid}/ns/net")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};

    #[test]
    fn a_cgroup_has_the_namespaces_of_its_processes() {
        let name = format!("egress-processes-{}", std::process::id());
        let folder = crate::cgroup2::mount_point().unwrap().join(name);
        fs::create_dir(&folder).expect("needs root: makes a cgroup");
        assert!(namespaces(&folder).is_empty());

        let mut inside = Command::new("cat");
        inside.stdin(Stdio::piped());
        // SAFETY: one bare system call between fork and exec
        unsafe { inside.pre_exec(|| Ok(unshare_unsafe(UnshareFlags::NEWNET)?)) };
        let mut inside = inside.spawn().unwrap();
        let mut beside = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        for child in [&inside, &beside] {
            fs::write(folder.join("cgroup.procs"), child.id().to_string()).unwrap();
        }
        let found = namespaces(&folder);
        let own = own().unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[&own], beside.id());
        let (other, pid) = found.iter().find(|(ns, _)| **ns != own).unwrap();
        assert_eq!(*pid, inside.id());
        hold(*pid, *other).unwrap();
        assert_eq!(hold(*pid, own).unwrap_err().kind(), io::ErrorKind::NotFound);

        for child in [&mut inside, &mut beside] {
            drop(child.stdin.take());
            child.wait().unwrap();
        }
        assert!(namespaces(&folder).is_empty());
        fs::remove_dir(&folder).unwrap();
    }
}
