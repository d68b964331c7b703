//! A memory limit around the agent that is so low that the kernel's OOM killer ends it.
//!
//! Owns the cgroup with the limit. With version 2 this is the agent's own cgroup, which the lab made; with version 1 it
//! is made here and removed again.

use crate::cgroup::Cgroup;
use crate::wait::wait_until;
use anyhow::{Context as _, Result};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// The memory that the agent may still allocate. Reading rules needs more.
const ROOM: u64 = 256 << 10;

/// How long the kernel may take to accept a limit near the present use.
const SET_WITHIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub struct MemoryLimit {
    /// The cgroup that has the limit.
    folder: PathBuf,
    /// The same cgroup, if it is of version 1.
    own: Option<Cgroup>,
}

impl MemoryLimit {
    /// No limit yet, around an agent whose cgroup of version 2 is in one of the test's own
    /// that has no processes.
    pub fn around(agent: &Cgroup) -> Result<Self> {
        let parent = agent.path().parent().context("a cgroup has a parent")?;
        let controllers = fs::read_to_string(parent.join("cgroup.controllers"))?;
        if controllers.split_whitespace().any(|name| name == "memory") {
            fs::write(parent.join("cgroup.subtree_control"), "+memory")?;
            return Ok(Self {
                folder: agent.path().to_owned(),
                own: None,
            });
        }
        let own = Cgroup::of_version_1("memory").context("version 2 has no memory controller")?;
        Ok(Self {
            folder: own.path().to_owned(),
            own: Some(own),
        })
    }

    /// Puts a running agent under a limit that is little above its present memory.
    pub fn lower(&self, agent: u32) -> Result<()> {
        if self.own.is_none() {
            // Below what is in use: the kernel reclaims, and then kills (memory_max_write in
            // mm/memcontrol.c).
            return Ok(fs::write(self.folder.join("memory.max"), ROOM.to_string())?);
        }
        fs::write(self.folder.join("cgroup.procs"), agent.to_string())?;
        // A limit below what is in use is rejected (mem_cgroup_resize_max in mm/memcontrol-v1.c).
        wait_until("the limit sinks", SET_WITHIN, || {
            let used = fs::read_to_string(self.folder.join("memory.usage_in_bytes")).ok()?;
            let limit = used.trim().parse::<u64>().ok()? + ROOM;
            fs::write(self.folder.join("memory.limit_in_bytes"), limit.to_string()).ok()
        })
    }

    /// Removes the limit, for the next agent.
    pub fn lift(&self) -> Result<()> {
        let (name, value) = match self.own {
            Some(_) => ("memory.limit_in_bytes", "-1"),
            None => ("memory.max", "max"),
        };
        Ok(fs::write(self.folder.join(name), value)?)
    }

    /// How many processes the OOM killer has ended here.
    pub fn kills(&self) -> Result<u64> {
        let name = match self.own {
            Some(_) => "memory.oom_control",
            None => "memory.events",
        };
        let text = fs::read_to_string(self.folder.join(name))?;
        let line = text.lines().find_map(|l| l.strip_prefix("oom_kill "));
        Ok(line.context("no count of kills")?.trim().parse()?)
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        // Remaining processes move to the controller's root, so that the cgroup can be removed.
        let members = self.own.as_ref().and_then(|own| own.members().ok());
        for pid in members.unwrap_or_default() {
            let root = self.folder.with_file_name("cgroup.procs");
            // A process that cannot move has ended meanwhile. Otherwise the cgroup remains, and its guard reports that.
            let _ = fs::write(root, pid.to_string());
        }
    }
}
