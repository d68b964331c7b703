//! A limit of memory around the agent, low enough that the kernel's OOM killer ends it.
//!
//! Owns the cgroup that has the limit: of version 2 the agent's own, which the lab made, of
//! version 1 one that is made here and removed again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::cgroup::Cgroup;
use crate::wait::wait_until;

/// What the agent may have beyond what it has. It takes more than that to read rules.
const ROOM: u64 = 256 << 10;

/// How long the kernel may take to let a limit sink to what is in use.
const SET_WITHIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct MemoryLimit {
    folder: PathBuf,
    version: Version,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

impl MemoryLimit {
    /// No limit yet, around an agent whose cgroup of version 2 stands in one of the test's own
    /// that has no processes.
    pub fn around(agent: &Cgroup) -> Result<Self> {
        let parent = agent.path().parent().context("a cgroup has a parent")?;
        let controllers = fs::read_to_string(parent.join("cgroup.controllers"))?;
        if controllers.split_whitespace().any(|name| name == "memory") {
            fs::write(parent.join("cgroup.subtree_control"), "+memory")?;
            return Ok(Self {
                folder: agent.path().to_owned(),
                version: Version::Two,
            });
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = version_1(&mounts)
            .context("no memory controller: neither cgroup v2 nor a mount of v1 has it here")?;
        let folder = mount.join(format!("egress-test-{}", process::id()));
        fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Self {
            folder,
            version: Version::One,
        })
    }

    /// Takes a running agent in and lets it have hardly more than it has.
    pub fn lower(&self, agent: u32) -> Result<()> {
        if self.version == Version::Two {
            // Below what is in use: the kernel reclaims, and then kills (memory_max_write in
            // mm/memcontrol.c).
            return Ok(fs::write(self.folder.join("memory.max"), ROOM.to_string())?);
        }
        fs::write(self.folder.join("cgroup.procs"), agent.to_string())?;
        // A limit below what is in use is refused (mem_cgroup_resize_max in mm/memcontrol-v1.c).
        wait_until("the limit sinks", SET_WITHIN, || {
            let used = fs::read_to_string(self.folder.join("memory.usage_in_bytes")).ok()?;
            let limit = used.trim().parse::<u64>().ok()? + ROOM;
            fs::write(self.folder.join("memory.limit_in_bytes"), limit.to_string()).ok()
        })
    }

    /// As much as there is, for the next agent.
    pub fn lift(&self) -> Result<()> {
        let (name, value) = match self.version {
            Version::One => ("memory.limit_in_bytes", "-1"),
            Version::Two => ("memory.max", "max"),
        };
        Ok(fs::write(self.folder.join(name), value)?)
    }

    /// How many processes the OOM killer has ended here.
    pub fn kills(&self) -> Result<u64> {
        let name = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        let text = fs::read_to_string(self.folder.join(name))?;
        let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
        Ok(line.context("no count of kills")?.trim().parse()?)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        if self.version == Version::Two {
            return;
        }
        let removed = self.empty().and_then(|()| {
            wait_until("it is empty", SET_WITHIN, || {
                fs::remove_dir(&self.folder).ok()
            })
        });
        if let Err(error) = removed {
            eprintln!("the cgroup {} stays: {error:#}", self.folder.display());
        }
    }
}

impl MemoryLimit {
    /// Moves what still runs in it to the controller's root.
    fn empty(&self) -> Result<()> {
        let root = self.folder.parent().context("a cgroup has a parent")?;
        for pid in fs::read_to_string(self.folder.join("cgroup.procs"))?.lines() {
            let moved = fs::write(root.join("cgroup.procs"), pid);
            ensure!(
                moved.is_ok() || !Path::new("/proc").join(pid).exists(),
                "process {pid} stays in it"
            );
        }
        Ok(())
    }
}

/// The mount point of version 1's memory controller, of the lines `ID PARENT DEV ROOT POINT
/// OPTIONS... - cgroup cgroup rw,memory` (proc(5)).
fn version_1(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let kind = right.next()?;
        let options = right.nth(1)?;
        (kind == "cgroup" && options.split(',').any(|option| option == "memory"))
            .then(|| left.split(' ').nth(4))?
            .map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_controller_of_version_1_is_found_among_others() {
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(version_1(mounts), Some("/sys/fs/cgroup/memory".into()));
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(version_1(unified), None);
    }
}
