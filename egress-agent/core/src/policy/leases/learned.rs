//! Names that workloads asked for and that no rule names in full: those below wildcards, and hosts with resolution
//! NONE. Owns how many there are, who asked for them and who loses one when there are too many.
//!
//! A name belongs to every workload that asked for it and goes when none is left. A workload with too many names below a
//! wildcard loses its own; if there are too many in all, the workload with the most loses one. So a flood of names by
//! one workload ends no name that another one asked for. Names of the previous agent belong to the policy that lists
//! them, until a workload asks.

use super::Lease;
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Bounds of learned names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most names of one workload below one host.
    pub of_workload: usize,
    /// The most names of all workloads, counted once for each workload that asked.
    pub names: usize,
    /// The most addresses of one name.
    pub addresses: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            of_workload: 1024,
            names: 16_384,
            addresses: 512,
        }
    }
}

/// To whom a name belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Learner {
    /// The workload that asked.
    Workload(CgroupId),
    /// The workloads of a policy, before a restart of the agent.
    Former(PolicyId),
}

#[derive(Clone, Debug)]
struct Name {
    /// The most specific host that lists it.
    host: Arc<str>,
    /// When each of them asked last.
    asked: BTreeMap<Learner, Instant>,
}

/// The names of one learner by the most specific host, those that were asked for longest ago first.
type OfLearner = BTreeMap<Arc<str>, BTreeSet<(Instant, Arc<str>)>>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Learned {
    names: BTreeMap<Arc<str>, Name>,
    by_learner: BTreeMap<Learner, OfLearner>,
    /// How many names each learner has.
    counts: BTreeMap<Learner, usize>,
    /// The sum of the counts.
    total: usize,
}

impl Learned {
    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether a name was learned.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Every name, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.keys()
    }

    /// A workload asked for a name. Returns names that have to go.
    pub(super) fn note(&mut self, now: Instant, lease: &Lease, bounds: &Bounds) -> Vec<Arc<str>> {
        let Some(host) = lease.hosts.first() else {
            return Vec::new();
        };
        self.list(&lease.name, host);
        let former = Learner::Former(lease.policy);
        let learner = lease.workload.map_or(former, Learner::Workload);
        let known = self.names.get_mut(&lease.name);
        let before = known.and_then(|name| name.asked.insert(learner, now));
        let group = self.by_learner.entry(learner).or_default();
        let group = group.entry(Arc::clone(host)).or_default();
        if let Some(before) = before {
            group.remove(&(before, Arc::clone(&lease.name)));
        } else {
            *self.counts.entry(learner).or_default() += 1;
            self.total += 1;
        }
        group.insert((now, Arc::clone(&lease.name)));
        let over = group.len() > bounds.of_workload;
        let mut ended = Vec::new();
        if over {
            ended.extend(self.lose(learner, Some(host)));
        }
        while self.total > bounds.names {
            let most = self.counts.iter().max_by_key(|(_, count)| **count);
            let Some((learner, _)) = most else {
                break;
            };
            ended.extend(self.lose(*learner, None));
        }
        ended.retain(|name| *name != lease.name);
        ended
    }

    /// Sets the host of a name. If it is another than before, the name starts anew.
    fn list(&mut self, name: &Arc<str>, host: &Arc<str>) {
        if self
            .names
            .get(name)
            .is_some_and(|known| known.host == *host)
        {
            return;
        }
        self.forget(name);
        let fresh = Name {
            host: Arc::clone(host),
            asked: BTreeMap::new(),
        };
        self.names.insert(Arc::clone(name), fresh);
    }

    /// A learner loses the name that it asked for longest ago, below this host or below the one with the most names.
    /// Returns the name if it belongs to no other.
    fn lose(&mut self, learner: Learner, host: Option<&Arc<str>>) -> Option<Arc<str>> {
        let groups = self.by_learner.get_mut(&learner)?;
        let group = match host {
            Some(host) => groups.get_mut(host),
            None => groups.values_mut().max_by_key(|group| group.len()),
        };
        let (_, name) = group?.pop_first()?;
        self.lost(learner);
        let known = self.names.get_mut(&name)?;
        known.asked.remove(&learner);
        known.asked.is_empty().then_some(name)
    }

    fn lost(&mut self, learner: Learner) {
        if let Some(count) = self.counts.get_mut(&learner) {
            *count -= 1;
            self.total -= 1;
            if *count == 0 {
                self.counts.remove(&learner);
                self.by_learner.remove(&learner);
            }
        }
    }

    /// A name is gone, or is asked for by the agent from now on. Returns whether it was here.
    pub(super) fn forget(&mut self, name: &Arc<str>) -> bool {
        let Some(known) = self.names.remove(name) else {
            return false;
        };
        for (learner, at) in known.asked {
            let groups = self.by_learner.get_mut(&learner);
            if let Some(group) = groups.and_then(|groups| groups.get_mut(&known.host)) {
                group.remove(&(at, Arc::clone(name)));
            }
            self.lost(learner);
        }
        true
    }
}

#[cfg(test)]
#[path = "learned_tests.rs"]
mod tests;
