//! The network namespaces in which the agent serves: which of them each cgroup's processes are in,
//! when that is checked again, and the proxy's listeners there. `workloads` knows the cgroups and
//! their identities.

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

/// Network namespaces of one workload that are served: each costs descriptors of the agent.
const NAMESPACES_EACH: usize = 64;

/// The network namespaces of a cgroup's processes.
#[derive(Debug, Default)]
struct Seen {
    namespaces: BTreeSet<NetnsInode>,
    /// Whether it has more of them than are served.
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
    /// Whether namespaces other than the agent's are looked for.
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

    /// The cgroups that are due; each is due again later.
    pub fn due(&mut self, now: Instant) -> Vec<CgroupId> {
        self.schedule.take(now)
    }

    /// A cgroup exists, or its first process started.
    pub fn follow(&mut self, now: Instant, cgroup: CgroupId) {
        if self.enters {
            self.schedule.start(now, cgroup);
        }
    }

    /// A flow of this cgroup found no proxy in its namespace.
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

    /// Finds the namespaces of a cgroup's processes. `folder` is the cgroup's, `shown` its path for
    /// the log; `workload` gives the cgroups that share its bound on namespaces, itself included.
    pub fn look(
        &mut self,
        cgroup: CgroupId,
        folder: &Path,
        shown: &str,
        workload: impl FnOnce() -> Vec<CgroupId>,
    ) {
        let mut found = processes::namespaces(folder);
        found.remove(&self.own);
        let known = self.seen.get(&cgroup).map(|seen| &seen.namespaces);
        let is_known = |ns: &NetnsInode| known.is_some_and(|known| known.contains(ns));
        // Those that are served keep their place.
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
                "more network namespaces than are served: flows that need the proxy are denied in the others"
            );
        }
        seen.crowded = crowded;
        let namespaces: BTreeSet<NetnsInode> = found.keys().copied().collect();
        self.emptied |= !seen.namespaces.is_subset(&namespaces);
        seen.namespaces = namespaces;
        found.retain(|namespace, _| !self.is_served(*namespace));
        self.wanted.append(&mut found);
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

    /// The proxy has started: serves in the namespaces of the workloads only.
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
            // A process that has ended meanwhile is no error; another check follows in any case.
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

    /// Takes no new redirected flow; running ones continue until drained.
    pub fn withdraw(&self, tables: &mut Tables) -> anyhow::Result<()> {
        self.spaces
            .iter()
            .try_for_each(|spaces| spaces.withdraw(tables))
    }

    /// The listening sockets of every namespace.
    pub fn listeners(&self) -> Vec<BorrowedFd<'_>> {
        self.spaces.iter().flat_map(Spaces::listeners).collect()
    }

    /// Closes them once nothing is accepted any more, which the drain makes sure of.
    pub async fn close(&mut self) {
        if let Some(spaces) = &mut self.spaces {
            spaces.close().await;
        }
    }

    /// Waits until the flows have ended, which the drain makes sure of.
    pub async fn drained(&mut self) {
        if let Some(spaces) = &mut self.spaces {
            spaces.drained().await;
        }
    }
}
