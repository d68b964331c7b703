//! Answers of the DNS into the state, and their consequences: which hosts moved in which policy.

use super::State;
use crate::policy::leases::store::Stored;
use crate::policy::leases::{Answer, Failure, Lease, Moved, Outcome};
use crate::policy::tables::Delta;
use egress_ebpf::ids::PolicyId;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

impl State {
    /// Takes the leases of a previous agent: wanted names without an answer use these addresses until they have one.
    /// `clock` is the time since 1970. Returns how many names got addresses.
    pub fn handle_stored(&mut self, now: Instant, clock: Duration, stored: &Stored) -> usize {
        let mut names = self.leases.restore(now, clock, stored);
        for name in stored.names() {
            let name: Arc<str> = name.into();
            if self.hosts.need(&name) {
                continue;
            }
            let Some((policy, hosts)) = self.hosts.listing(&name) else {
                continue;
            };
            let lease = Lease {
                policy,
                workload: None,
                hosts,
                answer: Answer::default(),
                name: Arc::clone(&name),
            };
            if self.leases.restore_learned(now, clock, stored, &lease) {
                names.insert(name);
            }
        }
        let moved = |name: &Arc<str>| (Arc::clone(name), self.leases.leased(name).collect());
        let moved = names.iter().map(moved).collect();
        self.relocate(&moved);
        names.len()
    }

    /// Takes the result of a [`Query`](super::Query). The outcome is for the log.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        name: &str,
        result: Result<Answer, Failure>,
    ) -> Outcome {
        let mut outcomes = self.handle_answers(now, vec![(name.into(), result)]);
        outcomes.pop().unwrap_or_default()
    }

    /// Takes several results, and carries out their consequences once. The outcomes are in the order of the results.
    pub fn handle_answers(
        &mut self,
        now: Instant,
        results: Vec<(Arc<str>, Result<Answer, Failure>)>,
    ) -> Vec<Outcome> {
        let mut moved = Moved::new();
        let take = |(name, result): (Arc<str>, _)| {
            let outcome = self.leases.handle_answer(now, &name, result);
            if outcome.changed {
                moved.entry(name).or_default().extend(&outcome.moved);
            }
            outcome
        };
        let outcomes = results.into_iter().map(take).collect();
        self.relocate(&moved);
        outcomes
    }

    /// Takes the addresses of answers that workloads get, and carries out their consequences once. An answer may reach
    /// its workload when the writes that follow are made. The outcomes are in the order of the leases.
    pub fn handle_leases(&mut self, now: Instant, leases: &[Lease]) -> Vec<Outcome> {
        let mut moved = Moved::new();
        let take = |lease: &Lease| {
            let (outcome, names) = self.leases.handle_lease(now, lease);
            for (name, addresses) in names {
                moved.entry(name).or_default().extend(addresses);
            }
            outcome
        };
        let outcomes = leases.iter().map(take).collect();
        self.relocate(&moved);
        outcomes
    }

    /// Running connections of workloads use these addresses, so their leases do not end before the next call, which is
    /// not later than `next`.
    pub fn handle_in_use(&mut self, now: Instant, used: &BTreeSet<IpAddr>, next: Duration) {
        self.leases.handle_in_use(now, used, next);
    }

    /// Updates the hosts of names whose addresses changed, in every policy.
    pub(super) fn relocate(&mut self, moved: &Moved) {
        let mut hosts: BTreeMap<&Arc<str>, BTreeSet<IpAddr>> = BTreeMap::new();
        for (name, addresses) in moved {
            // A learned name has no service of its own, but hosts that list it.
            let learned = !self.hosts.need(name) || self.promoted.contains(name);
            let listing = learned.then(|| self.hosts.covering(name));
            let users = self.hosts.users_of(name);
            for host in users.chain(listing.into_iter().flatten()) {
                hosts.entry(host).or_default().extend(addresses);
            }
        }
        let mut changes: BTreeMap<PolicyId, Delta> = BTreeMap::new();
        for (id, policy) in &mut self.policies {
            for (host, addresses) in &hosts {
                let unlisted = self.settings.unlisted_address;
                let delta = policy.relocate(host, addresses, &self.leases, unlisted);
                changes.entry(*id).or_default().extend(delta);
            }
        }
        if self.begun && !hosts.is_empty() {
            let ops = self.planner.update(&changes);
            self.ops.extend(ops);
        }
    }
}
