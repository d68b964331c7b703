//! The state machine: takes rules, DNS answers and time, and returns kernel writes, questions and the proxy's
//! snapshot.
//!
//! Owns the order in which the other parts are called. It rejects no input: input that cannot be used leads to
//! denials. The shell carries out what `poll_*` returns and reports with `handle_*`.

mod answers;
mod grouping;
mod plan;
mod policy;
mod settings;
mod take_over;
mod workloads;

pub use plan::{Plan, Work};
pub(super) use policy::PolicyState;
pub use policy::Unlisted;
pub use settings::Settings;

use super::diff::{Desired, Planner, TableOp};
use super::leases::{Failure, InForce, LeaseSettings, Leases, Lost};
use super::naming::{Hosts, Names, Needs};
use super::room::TooMany;
use crate::istio::Object;
use crate::registry::Registry;
use crate::registry::scope::Workload;
use crate::routing::RouteTable;
use egress_ebpf::ids::{CgroupId, Generation, PolicyId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// A question for the shell to ask: A and AAAA of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The name, lower case, without a final dot. It is complete: no search list applies.
    pub name: Arc<str>,
}

/// See the module.
#[derive(Debug)]
pub struct State {
    settings: Settings,
    pub(super) registry: Registry,
    pub(super) leases: Leases,
    planner: Planner,
    /// Whether plans are made. Until then, the present content of the kernel stays in force.
    begun: bool,
    pub(super) policies: BTreeMap<PolicyId, PolicyState>,
    /// Known workloads, with their policy.
    workloads: BTreeMap<CgroupId, (Workload, PolicyId)>,
    /// The hosts that the policies list, for people, and the names that their services need.
    pub(super) hosts: Hosts,
    /// Names that workloads had asked for and that a service needs since. The wildcards above them still claim their
    /// addresses.
    promoted: BTreeSet<Arc<str>>,
    ops: Vec<TableOp>,
    due: VecDeque<Query>,
    /// The policies have changed since `routes` was built.
    rebuilt: bool,
    /// The policies that a previous agent gave to cgroups, until the first plan is made.
    owned_before: BTreeMap<CgroupId, PolicyId>,
    /// Where the search for a free policy id starts.
    next_id: PolicyId,
    /// Workloads appeared, disappeared or changed their policy since `routes` was built.
    moved: bool,
    routes: Arc<RouteTable>,
    /// Policies that changed since [`Self::share`].
    unshared: BTreeSet<PolicyId>,
}

impl State {
    /// Nothing known and nothing written.
    pub fn new(settings: Settings) -> Self {
        Self {
            begun: true,
            ..Self::adopting(settings, Planner::default())
        }
    }

    /// Starts from pinned maps, which stay in force until the plan of [`Self::begin`] is committed
    /// and written.
    pub fn adopting(settings: Settings, planner: Planner) -> Self {
        let registry = Registry::empty(&settings.domain, &settings.root_namespace);
        let registry = if settings.dns_intercept {
            registry.allocating()
        } else {
            registry
        };
        Self {
            registry,
            leases: Leases::new(settings.leases.clone()),
            planner: planner.keeping_flows(settings.keep_removed),
            hosts: Hosts::new(settings.unlisted_address),
            begun: false,
            settings,
            policies: BTreeMap::new(),
            workloads: BTreeMap::new(),
            promoted: BTreeSet::new(),
            ops: Vec::new(),
            due: VecDeque::new(),
            rebuilt: false,
            owned_before: BTreeMap::new(),
            next_id: PolicyId(1),
            moved: false,
            routes: Arc::new(RouteTable::default()),
            unshared: BTreeSet::new(),
        }
    }

    /// Puts a whole new set of resources in force. They must have passed validation; those
    /// without a spec are left out. Addresses of names that stay listed are kept. Objects that
    /// are the same as before (the same `Arc`) are not looked at again.
    pub fn handle_rules(&mut self, now: Instant, objects: &[Arc<Object>]) {
        self.plan_rules(now, objects).commit();
    }

    /// Whether the policies in the kernel list nothing, so no agent has written rules before.
    pub fn lists_nothing(&self) -> bool {
        self.planner.lists_nothing()
    }

    /// Plans all of the kernel's tables from the policies, if there is room for them.
    fn replace(&mut self) -> Result<(), TooMany> {
        self.rebuilt = true;
        if !self.begun {
            return Ok(());
        }
        let policies = self.policies.iter();
        let desired = policies.map(|(id, p)| (*id, self.desired(p))).collect();
        let others = self.planner.others(&desired);
        self.planner.room_for(&desired, &others)?;
        let ops = self.planner.replace(desired);
        self.ops.extend(ops);
        Ok(())
    }

    /// The desired state of a policy in the kernel.
    fn desired(&self, policy: &PolicyState) -> Desired {
        Desired {
            table: policy.ledger.table(),
            allow_any: policy.allow_any,
            audit: policy.audit,
            dns: self.settings.dns_intercept,
            errno: self.settings.deny_errno,
        }
    }

    /// Asks for names that a service needs from now on, and forgets names that no service needs any more. Call
    /// [`Self::handle_timeout`] when the policies are written.
    fn want(&mut self, now: Instant, needs: &Needs) {
        for name in &needs.fewer {
            if !self.hosts.need(name) {
                self.leases.forget(name);
            }
        }
        for name in &needs.more {
            if self.hosts.need(name) && self.leases.add(now, name) {
                self.promoted.insert(Arc::clone(name));
            }
        }
    }

    /// Handles leases that end and names that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut moved = self.leases.handle_timeout(now);
        for name in &self.promoted {
            let addresses = moved.entry(Arc::clone(name)).or_default();
            addresses.extend(self.leases.leased(name));
        }
        self.relocate(&moved);
        self.promoted.clear();
        self.leases.sweep(&moved);
        while let Some(name) = self.leases.poll_query(now) {
            self.due.push_back(Query { name });
        }
    }

    /// Makes sockets that were judged under these policies be judged again, because the owners of some cgroups changed.
    /// Call it after the owners are written.
    pub fn handle_moved(&mut self, policies: impl IntoIterator<Item = PolicyId>) {
        self.ops.extend(self.planner.renew(policies));
    }

    /// Kernel writes since the last call, to be applied in this order. The first rules can need millions, so no room for
    /// as many stays behind.
    #[must_use = "ops that are not written are lost"]
    pub fn poll_ops(&mut self) -> Vec<TableOp> {
        std::mem::take(&mut self.ops)
    }

    /// The next question to ask. Pass its result to [`Self::handle_answer`] in any case; until then its name is not
    /// asked for again.
    pub fn poll_query(&mut self) -> Option<Query> {
        self.due.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.leases.poll_timeout()
    }

    /// The proxy's snapshot. It is the same as before if nothing in it changed. It is built only here, so that many
    /// answers in a row cost one snapshot.
    pub fn routes(&mut self) -> Arc<RouteTable> {
        if self.rebuilt || self.moved || self.policies.values().any(|p| p.snapshot.is_stale()) {
            self.rebuilt = false;
            let mut policies = BTreeMap::new();
            for (id, policy) in &mut self.policies {
                if policy.snapshot.is_stale() {
                    self.unshared.insert(*id);
                }
                let routes = policy.snapshot.routes(&policy.view, &self.leases);
                policies.insert(*id, routes);
            }
            let generation = self.routes.generation + 1;
            let owners = if std::mem::take(&mut self.moved) {
                let owners = self.workloads.iter();
                Arc::new(owners.map(|(id, (_, policy))| (*id, *policy)).collect())
            } else {
                Arc::clone(&self.routes.owners)
            };
            self.routes = Arc::new(RouteTable {
                generation,
                policies,
                owners,
            });
        }
        Arc::clone(&self.routes)
    }

    /// Makes policies that changed since the last call share equal parts again with a policy that sees most
    /// of the same, because each policy changed by itself. Nothing that was given out changes, so this
    /// can wait until a change is in force.
    pub fn share(&mut self) {
        for id in std::mem::take(&mut self.unshared) {
            let Some(mut policy) = self.policies.remove(&id) else {
                continue;
            };
            let like = self.alike(&policy.view.scope, id);
            if let Some(like) = like.and_then(|like| self.policies.get(&like)) {
                policy.share(like);
            }
            self.planner.share(id, &policy.ledger.table());
            self.policies.insert(id, policy);
        }
    }

    /// A snapshot of the hosts of each address, for people. Its cost does not depend on the number of rules.
    pub fn names(&self) -> Names {
        Names::new(self.leases.addresses(), &self.hosts)
    }

    /// The settings of leases: which answers of the DNS are accepted.
    pub fn lease_settings(&self) -> &LeaseSettings {
        self.leases.settings()
    }

    /// The settings.
    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Names without an address.
    pub fn addressless(&self) -> &BTreeSet<Arc<str>> {
        self.leases.addressless()
    }

    /// Names without an answer or a failure so far, and without addresses of the previous agent.
    pub fn unresolved(&self) -> &BTreeSet<Arc<str>> {
        self.leases.unresolved()
    }

    /// How many leases of DNS answers there are. An address of two names has two.
    pub fn leases(&self) -> usize {
        self.leases.leases()
    }

    /// The leases. They are in the kernel when the writes of [`Self::poll_ops`] are made.
    pub fn in_force(&self) -> InForce {
        self.leases.in_force()
    }

    /// How many hosts have or had allocated addresses, and the most that can have some.
    pub fn allocated_in_use(&self) -> (usize, usize) {
        self.registry.allocated_in_use()
    }

    /// How many names were learned from queries of workloads.
    pub fn names_learned(&self) -> usize {
        self.leases.learned()
    }

    /// Addresses without a lease for want of room, since the start.
    pub fn addresses_lost(&self) -> Lost {
        self.leases.lost()
    }

    /// How many names are asked for.
    pub fn names_asked(&self) -> usize {
        self.leases.count()
    }

    /// Names whose last question failed, and why.
    pub fn failing(&self) -> Vec<(Arc<str>, Failure)> {
        self.leases
            .failing()
            .map(|(n, f)| (Arc::clone(n), f.clone()))
            .collect()
    }

    /// How many names' last question failed.
    pub fn failing_count(&self) -> usize {
        self.leases.failing_count()
    }

    /// Generation of the kernel's policies, for `status`.
    pub fn generation(&self) -> Generation {
        self.planner.generation()
    }
}

#[cfg(test)]
mod tests;
