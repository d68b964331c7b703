//! Targets of aliases that workloads got in answers for listed names. Some clients follow aliases themselves and ask for
//! the target, which no rule lists.
//!
//! Owns how long a target may be asked for and how many there are. Only answers of trusted servers belong here: a target
//! opens no name that such an answer did not contain, and only to workloads of the policy that asked.

use egress_ebpf::ids::PolicyId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bounds of the targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The most targets of one policy by aliases of the names that one host lists.
    pub of_host: usize,
    /// The most targets of all policies.
    pub all: usize,
    /// The most listed names that have one target.
    pub names: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            of_host: 256,
            all: 16_384,
            names: 8,
        }
    }
}

/// An alias as a workload got it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The policy of the workload.
    pub policy: PolicyId,
    /// The most specific host that lists the name.
    pub host: Arc<str>,
    /// The listed name.
    pub name: Arc<str>,
    /// Where the alias leads to, in canonical form.
    pub target: Arc<str>,
}

#[derive(Clone, Debug)]
struct Known {
    host: Arc<str>,
    until: Instant,
}

/// When an alias ends, its target and its name.
type End = (Instant, Arc<str>, Arc<str>);

/// The targets of one policy.
#[derive(Clone, Debug, Default)]
struct OfPolicy {
    /// The listed names of each target.
    targets: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Known>>,
    /// The same by the host that lists the name.
    hosts: BTreeMap<Arc<str>, BTreeSet<End>>,
    count: usize,
}

impl OfPolicy {
    fn remove(&mut self, target: &Arc<str>, name: &Arc<str>) {
        let Some(names) = self.targets.get_mut(target) else {
            return;
        };
        let Some(known) = names.remove(name) else {
            return;
        };
        if names.is_empty() {
            self.targets.remove(target);
        }
        self.count -= 1;
        if let Some(ends) = self.hosts.get_mut(&known.host) {
            ends.remove(&(known.until, Arc::clone(target), Arc::clone(name)));
            if ends.is_empty() {
                self.hosts.remove(&known.host);
            }
        }
    }

    /// Removes the target of a host that would end first, of the host with the most if none is given.
    fn evict(&mut self, host: Option<&Arc<str>>) {
        let ends = match host {
            Some(host) => self.hosts.get(host),
            None => self.hosts.values().max_by_key(|ends| ends.len()),
        };
        if let Some((_, target, name)) = ends.and_then(|ends| ends.first()).cloned() {
            self.remove(&target, &name);
        }
    }

    fn add(&mut self, seen: &Seen, until: Instant, bounds: &Bounds) {
        let (target, name) = (&seen.target, &seen.name);
        let known = self.targets.get(target);
        let before = known.and_then(|names| names.get(name)).map(|k| k.until);
        let until = before.map_or(until, |before| before.max(until));
        if before.is_some() {
            self.remove(target, name);
        } else if let Some(names) = self.targets.get(target)
            && names.len() >= bounds.names
            && let Some(first) = names.iter().min_by_key(|(_, k)| k.until)
        {
            let first = Arc::clone(first.0);
            self.remove(target, &first);
        }
        let known = Known {
            host: Arc::clone(&seen.host),
            until,
        };
        let names = self.targets.entry(Arc::clone(target)).or_default();
        names.insert(Arc::clone(name), known);
        self.count += 1;
        let ends = self.hosts.entry(Arc::clone(&seen.host)).or_default();
        ends.insert((until, Arc::clone(target), Arc::clone(name)));
        if ends.len() > bounds.of_host {
            self.evict(Some(&seen.host));
        }
    }

    fn forget(&mut self, now: Instant) {
        let ends = self.hosts.values().flatten();
        let over: Vec<_> = ends.filter(|(until, ..)| *until <= now).cloned().collect();
        for (_, target, name) in over {
            self.remove(&target, &name);
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Aliases {
    bounds: Bounds,
    policies: BTreeMap<PolicyId, OfPolicy>,
    count: usize,
}

impl Aliases {
    /// With other bounds than the default.
    pub fn within(bounds: Bounds) -> Self {
        Self {
            bounds,
            ..Self::default()
        }
    }

    /// A workload gets an alias that is valid for this time.
    pub fn note(&mut self, now: Instant, seen: &Seen, valid: Duration) {
        if seen.target == seen.name {
            return;
        }
        let until = now.checked_add(valid).unwrap_or(now);
        let policy = self.policies.entry(seen.policy).or_default();
        let before = policy.count;
        policy.add(seen, until, &self.bounds);
        self.count = self.count + policy.count - before;
        if self.count > self.bounds.all {
            self.forget(now);
        }
        while self.count > self.bounds.all
            && let Some(most) = self.policies.values_mut().max_by_key(|p| p.count)
        {
            most.evict(None);
            self.count -= 1;
        }
    }

    /// The listed names that have this target, as a policy's workloads saw it.
    pub fn names_of(&self, now: Instant, policy: PolicyId, target: &str) -> Vec<Arc<str>> {
        let policy = self.policies.get(&policy);
        let names = policy.and_then(|policy| policy.targets.get(target));
        let valid = names.into_iter().flatten().filter(|(_, k)| k.until > now);
        valid.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Removes the targets of aliases that ended.
    fn forget(&mut self, now: Instant) {
        self.policies.retain(|_, policy| {
            policy.forget(now);
            policy.count > 0
        });
        self.count = self.policies.values().map(|p| p.count).sum();
    }

    /// How many targets there are, each counted once for each of its names.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
#[path = "aliases_tests.rs"]
mod tests;
