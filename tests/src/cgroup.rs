//! Child cgroups that a test made.
//!
//! Owns their creation and removal. Programs are attached only to these, never to existing cgroups. `place` starts
//! processes in them.

use crate::wait::wait_until;
use anyhow::{Context as _, Result};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The prefix of every cgroup's name, before the process id and a number.
const PREFIX: &str = "egress-test-";

/// How long the kernel may take to empty a cgroup after its members were killed.
const EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// A cgroup of this process. Dropping it kills its members and removes it with everything below it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A cgroup directly below the mount of version 2.
    pub fn new() -> Result<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        remove_leftovers()?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::make(mount_point()?.join(format!("{PREFIX}{}-{number}", process::id())))
    }

    /// A cgroup of version 1 below the mount of a controller. Fails if no hierarchy has the controller.
    pub(crate) fn of_version_1(controller: &str) -> Result<Self> {
        let hierarchy = hierarchies()?
            .into_iter()
            .find(|h| h.version == 1 && h.options.iter().any(|option| option == controller))
            .with_context(|| format!("no mount of version 1 with the controller {controller}"))?;
        Self::make(hierarchy.mount.join(format!("{PREFIX}{}", process::id())))
    }

    /// A cgroup below this one.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::make(self.path.join(name))
    }

    /// A cgroup that exists, below one that a test made.
    pub fn adopt(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
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
        // cgroup.kill (Linux 5.14) reaches the children too. Version 1 has no such file, but processes there have
        // guards of their own.
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let removed = wait_until("the cgroup is empty", EMPTY_WITHIN, || {
            remove_tree(&self.path).is_ok().then_some(())
        })
        // An interrupted wait checks only once, and the kernel may need a moment more.
        .or_else(|_| remove_tree(&self.path).context("still there"));
        if let Err(error) = removed {
            eprintln!("the cgroup {} stays: {error:#}", self.path.display());
        }
    }
}

/// Where version 2 of cgroups is mounted: `/sys/fs/cgroup`, or below it on a hybrid machine.
pub fn mount_point() -> Result<PathBuf> {
    let mut all = hierarchies()?.into_iter();
    all.find(|hierarchy| hierarchy.version == 2)
        .map(|hierarchy| hierarchy.mount)
        .context("no cgroup2 mount on this machine: mount one with `mount -t cgroup2 none DIR`")
}

/// A mounted hierarchy of cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its mount point.
    pub mount: PathBuf,
    /// 1 or 2.
    pub version: u8,
    /// Its mount options; for version 1 these include the controllers.
    pub options: Vec<String>,
}

/// Every mounted hierarchy.
pub fn hierarchies() -> Result<Vec<Hierarchy>> {
    Ok(read_hierarchies(&fs::read_to_string(
        "/proc/self/mountinfo",
    )?))
}

/// The hierarchies in lines `ID PARENT DEV ROOT POINT OPTIONS... - TYPE SOURCE OPTIONS` (proc(5)).
fn read_hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let read = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let version = match right.next()? {
            "cgroup" => 1,
            "cgroup2" => 2,
            _ => return None,
        };
        Some(Hierarchy {
            mount: left.split(' ').nth(4)?.into(),
            version,
            options: right.nth(1)?.split(',').map(str::to_owned).collect(),
        })
    };
    mountinfo.lines().filter_map(read).collect()
}

/// Removes cgroups that a killed process of this harness left in any hierarchy, if they are empty and their process has
/// ended.
fn remove_leftovers() -> Result<()> {
    for hierarchy in hierarchies()? {
        // A hierarchy that this process does not see has no cgroups of the harness.
        let entries = fs::read_dir(&hierarchy.mount).into_iter().flatten();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let owner = name
                .to_str()
                .and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Processes in it belong to their own guards.
                let _ = remove_tree(&entry.path());
            }
        }
    }
    Ok(())
}

/// Removes a cgroup and those below it, all empty.
pub fn remove_tree(path: &Path) -> io::Result<()> {
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
    fn hierarchies_are_found_on_unified_and_on_hybrid_machines() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let version_2 = |text: &str| {
            let all = read_hierarchies(text).into_iter();
            all.filter(|h| h.version == 2)
                .map(|h| h.mount)
                .collect::<Vec<_>>()
        };
        assert_eq!(version_2(unified), [Path::new("/sys/fs/cgroup")]);
        assert_eq!(version_2(hybrid), [Path::new("/sys/fs/cgroup/unified")]);
        let [cpu, _] = &read_hierarchies(hybrid)[..] else {
            panic!("two hierarchies: {hybrid}")
        };
        assert_eq!((cpu.version, &cpu.options[1][..]), (1, "cpu"));
        assert!(read_hierarchies("31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n").is_empty());
    }
}
