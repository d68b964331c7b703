//! The network namespaces in which the agent serves. Owns which of them each cgroup's processes are in,
//! when to check that again, and the proxy's listeners there. `workloads` knows the cgroups and their
//! identities.

mod processes;
mod schedule;
mod serving;
mod spaces;

pub use serving::Services;
pub use spaces::Spaces;

use crate::kernel::Tables;
use egress_ebpf::ids::{CgroupId, NetnsInode};
use schedule::Schedule;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

/// The most network namespaces of one workload that are served. Each costs descriptors of the agent.
const NAMESPACES_EACH: usize = 64;

/// The most cgroups whose processes are read at once: other changes must not wait for many of them.
const TOGETHER: usize = 16;

/// The network namespaces of a cgroup's processes.
#[derive(Debug, Default)]
struct Seen {
    namespaces: BTreeSet<NetnsInode>,
    /// Whether some of its namespaces are not served because there are too many.
    crowded: bool,
}

/// How many namespaces other than the agent's a cgroup's processes are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// All of them.
    pub all: usize,
    /// Those in which the agent serves.
    pub served: usize,
}

/// See the module.
pub struct Namespaces {
    /// Whether the agent serves in namespaces other than its own.
    enters: bool,
    own: NetnsInode,
    schedule: Schedule,
    /// By cgroup.
    seen: BTreeMap<CgroupId, Seen>,
    /// `None` until the proxy has started.
    spaces: Option<Spaces>,
    /// Namespaces in which nothing is served, each with a process that was seen in it.
    wanted: BTreeMap<NetnsInode, u32>,
    /// A namespace may have lost its last cgroup.
    emptied: bool,
}

impl Namespaces {
    /// Knows no cgroup. `enters`: whether the agent serves in namespaces other than its own.
    pub fn new(enters: bool) -> io::Result<Self> {
        Ok(Self {
            enters,
            own: processes::own()?,
            schedule: Schedule::default(),
            seen: BTreeMap::new(),
            spaces: None,
            wanted: BTreeMap::new(),
            emptied: false,
        })
    }

    /// When the next cgroup is to be checked.
    pub fn next(&self) -> Option<Instant> {
        self.schedule.next()
    }

    /// Returns a few of the cgroups that are due, and sets when each of them is due again.
    pub fn due(&mut self, now: Instant) -> Vec<CgroupId> {
        self.schedule.take(now, TOGETHER)
    }

    /// A cgroup was found, or its first process started: it is due at once.
    pub fn follow(&mut self, now: Instant, cgroup: CgroupId) {
        if self.enters {
            self.schedule.start(now, cgroup);
        }
    }

    /// A flow of this cgroup was denied because its namespace has no proxy: the cgroup is due soon.
    pub fn hurry(&mut self, now: Instant, cgroup: CgroupId) {
        if self.enters {
            self.schedule.hurry(now, cgroup);
        }
    }

    /// A cgroup is gone.
    pub fn forget(&mut self, cgroup: CgroupId) {
        self.schedule.forget(cgroup);
        let gone = self.seen.remove(&cgroup);
        self.emptied |= gone.is_some_and(|seen| !seen.namespaces.is_empty());
    }

    /// This cgroup has no process, and the first one will be reported with [`Self::follow`].
    pub fn rest(&mut self, now: Instant, cgroup: CgroupId) {
        self.schedule.rest(now, cgroup);
    }

    /// Finds the namespaces of a cgroup's processes. `folder` is the cgroup's folder and `shown` its
    /// path for the log. `workload` returns the cgroups that share its limit of namespaces, itself
    /// included. Returns whether it has a process itself.
    pub fn look(
        &mut self,
        cgroup: CgroupId,
        folder: &Path,
        shown: &str,
        workload: impl FnOnce() -> Vec<CgroupId>,
    ) -> bool {
        let mut found = processes::namespaces(folder);
        let has_process = !found.is_empty();
        found.remove(&self.own);
        let known = self.seen.get(&cgroup).map(|seen| &seen.namespaces);
        let is_known = |ns: &NetnsInode| known.is_some_and(|known| known.contains(ns));
        // Namespaces that are known keep their place, so only new ones need a count.
        let taken = if found.keys().all(is_known) {
            0
        } else {
            self.used_by(&workload())
        };
        let seen = self.seen.entry(cgroup).or_default();
        let mut room = NAMESPACES_EACH.saturating_sub(taken);
        let before = found.len();
        found.retain(|namespace, _| {
            let known = seen.namespaces.contains(namespace);
            let new = !known && room > 0;
            room -= usize::from(new);
            known || new
        });
        let crowded = found.len() < before;
        if crowded && !seen.crowded {
            tracing::warn!(
                cgroup = shown,
                served = NAMESPACES_EACH,
                "too many network namespaces in one workload: flows that need the proxy are denied in those that are not served"
            );
        }
        seen.crowded = crowded;
        let namespaces: BTreeSet<NetnsInode> = found.keys().copied().collect();
        self.emptied |= !seen.namespaces.is_subset(&namespaces);
        seen.namespaces = namespaces;
        found.retain(|namespace, _| !self.is_served(*namespace));
        self.wanted.append(&mut found);
        has_process
    }

    /// How many namespaces these cgroups are in.
    fn used_by(&self, cgroups: &[CgroupId]) -> usize {
        let seen = cgroups.iter().filter_map(|id| self.seen.get(id));
        let all: BTreeSet<&NetnsInode> = seen.flat_map(|seen| &seen.namespaces).collect();
        all.len()
    }

    fn is_served(&self, namespace: NetnsInode) -> bool {
        let spaces = self.spaces.as_ref();
        spaces.is_some_and(|spaces| spaces.is_open(namespace))
    }

    /// For `status`.
    pub fn counted(&self, cgroup: CgroupId) -> Counted {
        let Some(seen) = self.seen.get(&cgroup) else {
            return Counted::default();
        };
        let served = |namespace: &&NetnsInode| self.is_served(**namespace);
        Counted {
            all: seen.namespaces.len(),
            served: seen.namespaces.iter().filter(served).count(),
        }
    }

    /// How many namespaces the agent serves in.
    pub fn served(&self) -> usize {
        self.spaces.as_ref().map_or(0, Spaces::count)
    }

    /// The proxy has started. Opens listeners in the namespaces of the workloads, and removes the ports
    /// of namespaces that only a previous agent served.
    pub async fn open(&mut self, tables: &mut Tables, spaces: Spaces) -> anyhow::Result<()> {
        self.spaces = Some(spaces);
        self.settle(tables).await?;
        self.spaces
            .iter()
            .try_for_each(|spaces| spaces.remove_stale(tables))
    }

    /// Opens listeners in the namespaces of the workloads, and closes them in namespaces without a
    /// workload.
    pub async fn settle(&mut self, tables: &mut Tables) -> anyhow::Result<()> {
        let Some(spaces) = &mut self.spaces else {
            return Ok(());
        };
        for (namespace, pid) in std::mem::take(&mut self.wanted) {
            // The process may have ended since it was seen. The next check of its cgroup finds another.
            if let Err(error) = spaces.open(tables, namespace, pid).await
                && Path::new(&format!("/proc/{pid}")).exists()
            {
                tracing::warn!(
                    pid,
                    error = format!("{error:#}"),
                    "no proxy in a network namespace: flows that need it are denied there"
                );
            }
        }
        if std::mem::take(&mut self.emptied) {
            let seen = self.seen.values();
            let used: BTreeSet<NetnsInode> = seen.flat_map(|s| &s.namespaces).copied().collect();
            spaces.close_but(tables, |namespace| used.contains(&namespace))?;
        }
        Ok(())
    }

    /// Removes all proxy ports from the kernel's table: new flows that need the proxy are denied,
    /// running ones continue.
    pub fn withdraw(&self, tables: &mut Tables) -> anyhow::Result<()> {
        self.spaces
            .iter()
            .try_for_each(|spaces| spaces.withdraw(tables))
    }

    /// The listening sockets of every namespace.
    pub fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        self.spaces.iter().flat_map(Spaces::listeners).collect()
    }

    /// Waits until the drain has stopped the listeners, and closes them.
    pub async fn close(&mut self) {
        if let Some(spaces) = &mut self.spaces {
            spaces.close().await;
        }
    }

    /// Waits until the drain has ended all flows.
    pub async fn drained(&mut self) {
        if let Some(spaces) = &mut self.spaces {
            spaces.drained().await;
        }
    }
}
