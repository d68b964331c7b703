//! Child cgroups that a test made.
//!
//! Owns their making and removal. Programs are attached only to these, never to a cgroup that
//! was there before. What runs in them is `place`'s business.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::wait::wait_until;

/// What every cgroup of this harness is called, before the process id and a number.
const PREFIX: &str = "egress-test-";

/// How long the kernel gets to empty a cgroup after its members were killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// A cgroup of this process's own. Dropping it kills its members and removes it with
/// everything below it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A cgroup directly below the mount of version 2.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let mount = mount_point()?;
        remove_leftovers(&mount);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::make(mount.join(format!("{PREFIX}{}-{number}", process::id())))
    }

    /// A cgroup below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make(self.path.join(name))
    }

    fn make(path: PathBuf) -> Result<Self> {
        fs::create_dir(&path).with_context(|| {
            format!("cannot make the cgroup {} (root is needed)", path.display())
        })?;
        Ok(Self { path })
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The id that BPF helpers give: the inode of the folder.
    pub fn id(&self) -> Result<u64> {
        Ok(fs::metadata(&self.path)?.ino())
    }

    /// The processes in it, not in its children.
    pub fn members(&self) -> Result<Vec<u32>> {
        members(&self.path)
            .with_context(|| format!("cannot read the members of {}", self.path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // cgroup.kill (Linux 5.14) reaches the children too.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let removed = wait_until("the cgroup is empty", EMPTY_WITHIN, || {
            remove_tree(&self.path).is_ok().then_some(())
        })
        // An interrupted wait has looked once; the kernel may have needed a moment more.
        .or_else(|_| remove_tree(&self.path).context("still there"));
        if let Err(error) = removed {
            eprintln!("the cgroup {} stays: {error:#}", self.path.display());
        }
    }
}

/// Where version 2 of cgroups is mounted: `/sys/fs/cgroup`, or below it on a hybrid machine.
pub fn mount_point() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    find_mount(&mounts)
        .context("no cgroup2 mount on this machine: mount one with `mount -t cgroup2 none DIR`")
}

/// The mount point of the line `ID PARENT DEV ROOT POINT OPTIONS... - cgroup2 ...` (proc(5)).
fn find_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        right
            .starts_with("cgroup2 ")
            .then(|| left.split(' ').nth(4))?
            .map(PathBuf::from)
    })
}

/// Cgroups that an earlier process of this harness left because it was killed: removed where
/// they are empty and their process is gone.
fn remove_leftovers(mount: &Path) {
    let Ok(entries) = fs::read_dir(mount) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = remove_tree(&entry.path());
        }
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn members(path: &Path) -> io::Result<Vec<u32>> {
    let text = fs::read_to_string(path.join("cgroup.procs"))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_mount_is_found_on_unified_and_on_hybrid_machines() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find_mount(unified), Some("/sys/fs/cgroup".into()));
        assert_eq!(find_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(
            find_mount("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"),
            None
        );
    }
}
