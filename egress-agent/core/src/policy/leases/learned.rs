//! Names that workloads asked for and that no rule names in full: those below wildcards, and hosts with resolution
//! NONE. Owns how many there are, who asked for them and who loses one when there are too many.
//!
//! A name belongs to every policy that asked for it and goes when none is left. A policy with too many names below a
//! wildcard loses its own; if there are too many in all, the policy with the most loses one. So a flood of names by
//! one workload ends no name that only another policy asked for.

use super::Lease;
use egress_ebpf::ids::PolicyId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

/// Bounds of learned names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most names of one policy below one host.
    pub of_policy: usize,
    /// The most names of all policies, counted once for each policy that asked.
    pub names: usize,
    /// The most addresses of one name.
    pub addresses: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            of_policy: 1024,
            names: 16_384,
            addresses: 512,
        }
    }
}

#[derive(Clone, Debug)]
struct Name {
    /// The most specific host that lists it.
    host: Arc<str>,
    /// When each policy asked last.
    asked: BTreeMap<PolicyId, Instant>,
}

/// The names of one policy by the most specific host, those that were asked for longest ago first.
type OfPolicy = BTreeMap<Arc<str>, BTreeSet<(Instant, Arc<str>)>>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Learned {
    names: BTreeMap<Arc<str>, Name>,
    by_policy: BTreeMap<PolicyId, OfPolicy>,
    /// How many names each policy has.
    counts: BTreeMap<PolicyId, usize>,
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

    /// A policy asked for a name. Returns names that have to go.
    pub(super) fn note(&mut self, now: Instant, lease: &Lease, bounds: &Bounds) -> Vec<Arc<str>> {
        let Some(host) = lease.hosts.first() else {
            return Vec::new();
        };
        self.list(&lease.name, host);
        let policy = lease.policy;
        let known = self.names.get_mut(&lease.name);
        let before = known.and_then(|name| name.asked.insert(policy, now));
        let group = self.by_policy.entry(policy).or_default();
        let group = group.entry(Arc::clone(host)).or_default();
        match before {
            Some(before) => drop(group.remove(&(before, Arc::clone(&lease.name)))),
            None => *self.counts.entry(policy).or_default() += 1,
        }
        group.insert((now, Arc::clone(&lease.name)));
        let over = group.len() > bounds.of_policy;
        let mut ended = Vec::new();
        if over {
            ended.extend(self.lose(policy, Some(host)));
        }
        while self.counts.values().sum::<usize>() > bounds.names {
            let most = self.counts.iter().max_by_key(|(_, count)| **count);
            let Some((policy, _)) = most else {
                break;
            };
            ended.extend(self.lose(*policy, None));
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

    /// A policy loses the name that it asked for longest ago, below this host or below the one with the most names.
    /// Returns the name if no other policy asked for it.
    fn lose(&mut self, policy: PolicyId, host: Option<&Arc<str>>) -> Option<Arc<str>> {
        let groups = self.by_policy.get_mut(&policy)?;
        let group = match host {
            Some(host) => groups.get_mut(host),
            None => groups.values_mut().max_by_key(|group| group.len()),
        };
        let (_, name) = group?.pop_first()?;
        self.lost(policy);
        let known = self.names.get_mut(&name)?;
        known.asked.remove(&policy);
        known.asked.is_empty().then_some(name)
    }

    fn lost(&mut self, policy: PolicyId) {
        if let Some(count) = self.counts.get_mut(&policy) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&policy);
                self.by_policy.remove(&policy);
            }
        }
    }

    /// A name is gone, or is asked for by the agent from now on. Returns whether it was here.
    pub(super) fn forget(&mut self, name: &Arc<str>) -> bool {
        let Some(known) = self.names.remove(name) else {
            return false;
        };
        for (policy, at) in known.asked {
            let groups = self.by_policy.get_mut(&policy);
            if let Some(group) = groups.and_then(|groups| groups.get_mut(&known.host)) {
                group.remove(&(at, Arc::clone(name)));
            }
            self.lost(policy);
        }
        true
    }
}

#[cfg(test)]
#[path = "learned_tests.rs"]
mod tests;
