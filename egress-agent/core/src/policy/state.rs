//! The state machine: rules, DNS answers and time in; kernel writes, questions and the proxy's
//! snapshot out.
//!
//! Owns the order in which everything else here is called. No input is ever refused: what cannot
//! be used denies. The shell does what `poll_*` says and reports back with `handle_*`.

use super::claims::{UnlistedAddress, claims};
use super::diff::{Desired, Planner, TableOp};
use super::leases::{Answer, Failure, LeaseSettings, Leases, Outcome};
use super::snapshot::Snapshot;
use super::tables::{Action, Claims, Delta, Ledger, Target, Transport, claim};
use crate::istio::Object;
use crate::registry::Registry;
use crate::registry::services::Service;
use crate::registry::view::View;
use crate::routing::RouteTable;
use egress_ebpf::abi::DEFAULT_POLICY;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

/// What does not come from resources.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How addresses of names live.
    pub leases: LeaseSettings,
    /// Name servers that workloads may ask, by UDP and TCP.
    pub dns_servers: Vec<SocketAddr>,
    /// Ranges that every workload may reach on any port by TCP and UDP.
    pub internal: Vec<IpNet>,
    /// What happens to an address that is none of the host's.
    pub unlisted_address: UnlistedAddress,
    /// `outboundTrafficPolicy: ALLOW_ANY`.
    pub allow_any: bool,
    /// Domain that completes short names.
    pub domain: String,
    /// Nothing is refused; what would be is recorded.
    pub audit: bool,
    /// Errno (positive) that a refused call gets; 0 is EPERM.
    pub deny_errno: u32,
    /// Running flows outlive the rule that listed them.
    pub keep_removed: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            leases: LeaseSettings::default(),
            dns_servers: Vec::new(),
            internal: Vec::new(),
            unlisted_address: UnlistedAddress::default(),
            allow_any: false,
            domain: "cluster.local".to_owned(),
            audit: false,
            deny_errno: 0,
            keep_removed: false,
        }
    }
}

/// A question for the shell to ask: A and AAAA of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The name, lower case, without a final dot. It is complete: no search list applies.
    pub name: Arc<str>,
}

/// One policy: what its workloads see.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicyState {
    pub(super) view: View,
    /// What each service holds in the ledger.
    claims: BTreeMap<Arc<str>, Claims>,
    ledger: Ledger,
    snapshot: Snapshot,
}

/// See the module. A copy is the way back from rules that the kernel has no room for.
#[derive(Clone, Debug)]
pub struct State {
    settings: Settings,
    pub(super) leases: Leases,
    planner: Planner,
    pub(super) policies: BTreeMap<u32, PolicyState>,
    /// Hosts of the services that need each name.
    pub(super) users: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    ops: VecDeque<TableOp>,
    due: VecDeque<Query>,
    /// The policies are others than those of `routes`.
    rebuilt: bool,
    routes: Arc<RouteTable>,
}

impl State {
    /// Nothing known and nothing written.
    pub fn new(settings: Settings) -> Self {
        Self::adopting(settings, Planner::default())
    }

    /// Starts from pinned maps, which stay in force until the ops of the first
    /// [`Self::handle_rules`] are written.
    pub fn adopting(settings: Settings, planner: Planner) -> Self {
        Self {
            leases: Leases::new(settings.leases.clone()),
            planner: planner.keeping_flows(settings.keep_removed),
            settings,
            policies: BTreeMap::new(),
            users: BTreeMap::new(),
            ops: VecDeque::new(),
            due: VecDeque::new(),
            rebuilt: false,
            routes: Arc::new(RouteTable::default()),
        }
    }

    /// Puts a whole new set of resources in force. They must have passed validation; those
    /// without a spec are left out. Addresses of names that stay listed are kept.
    pub fn handle_rules(&mut self, now: Instant, objects: &[Arc<Object>]) {
        let registry = Registry::new(objects, &self.settings.domain);
        let views = BTreeMap::from([(DEFAULT_POLICY, View::everything(&registry))]);
        self.users.clear();
        for (host, service) in views.values().flat_map(|v| &v.services) {
            for name in service.lookups() {
                self.users
                    .entry(Arc::clone(name))
                    .or_default()
                    .insert(Arc::clone(host));
            }
        }
        self.leases.want(now, &self.users.keys().cloned().collect());
        let policies = views.into_iter().map(|(id, view)| (id, self.policy(view)));
        self.policies = policies.collect();
        self.plan();
        self.rebuilt = true;
        self.handle_timeout(now);
    }

    /// Forgets the ops that were not polled and plans again from what the kernel has: tables that
    /// were filled step by step while names were asked for the first time become visible whole.
    pub fn replan(&mut self, standing: Planner) {
        self.planner = standing.keeping_flows(self.settings.keep_removed);
        self.ops.clear();
        self.plan();
    }

    fn plan(&mut self) {
        let desired = |p: &PolicyState| Desired {
            table: p.ledger.table(),
            allow_any: self.settings.allow_any,
            audit: self.settings.audit,
            errno: self.settings.deny_errno,
        };
        let desired = self
            .policies
            .iter()
            .map(|(id, p)| (*id, desired(p)))
            .collect();
        let ops = self.planner.replace(desired);
        self.ops.extend(ops);
    }

    fn policy(&self, view: View) -> PolicyState {
        let snapshot = Snapshot::new(&view, &self.leases);
        let mut policy = PolicyState {
            view,
            snapshot,
            ..PolicyState::default()
        };
        policy
            .ledger
            .replace(&Claims::new(), &fixed(&self.settings));
        let none = Claims::new();
        for (host, service) in &policy.view.services {
            let new = self.claims_of(service);
            policy.ledger.replace(&none, &new);
            policy.claims.insert(Arc::clone(host), new);
        }
        policy
    }

    fn claims_of(&self, service: &Service) -> Claims {
        claims(service, &self.leases, self.settings.unlisted_address)
    }

    /// Takes the result of a [`Query`]. The outcome is for the log.
    pub fn handle_answer(
        &mut self,
        now: Instant,
        name: &str,
        result: Result<Answer, Failure>,
    ) -> Outcome {
        let outcome = self.leases.handle_answer(now, name, result);
        if outcome.changed {
            self.relocate(std::iter::once(name));
        }
        outcome
    }

    /// Does what is due: leases that end, names to ask for.
    pub fn handle_timeout(&mut self, now: Instant) {
        let changed = self.leases.handle_timeout(now);
        self.relocate(changed.iter().map(|n| &**n));
        while let Some(name) = self.leases.poll_query(now) {
            self.due.push_back(Query { name });
        }
    }

    fn relocate<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let hosts: BTreeSet<Arc<str>> = names
            .filter_map(|n| self.users.get(n))
            .flatten()
            .cloned()
            .collect();
        if hosts.is_empty() {
            return;
        }
        let mut changes: BTreeMap<u32, Delta> = BTreeMap::new();
        let none = Claims::new();
        for (id, policy) in &mut self.policies {
            for host in &hosts {
                let Some(service) = policy.view.services.get(host) else {
                    continue;
                };
                let new = claims(service, &self.leases, self.settings.unlisted_address);
                let old = policy.claims.get(host).unwrap_or(&none);
                changes
                    .entry(*id)
                    .or_default()
                    .extend(policy.ledger.replace(old, &new));
                policy.claims.insert(Arc::clone(host), new);
                policy.snapshot.relocate(host, &policy.view, &self.leases);
            }
        }
        self.ops.extend(self.planner.update(&changes));
    }

    /// Kernel writes since the last call, to be applied in this order.
    #[must_use = "ops that are not written are lost"]
    pub fn poll_ops(&mut self) -> Vec<TableOp> {
        self.ops.drain(..).collect()
    }

    /// The next question to ask. Each must come back through [`Self::handle_answer`], whatever
    /// became of it; until then its name is not asked for again.
    pub fn poll_query(&mut self) -> Option<Query> {
        self.due.pop_front()
    }

    /// When to call [`Self::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.leases.poll_timeout()
    }

    /// The proxy's snapshot: the same as before if nothing in it changed. Put together here, so
    /// that many answers in a row cost one.
    pub fn routes(&mut self) -> Arc<RouteTable> {
        if self.rebuilt || self.policies.values().any(|p| p.snapshot.is_stale()) {
            self.rebuilt = false;
            let policies = self.policies.iter_mut();
            let policies = policies
                .map(|(id, p)| (*id, p.snapshot.routes(&p.view)))
                .collect();
            let generation = self.routes.generation + 1;
            self.routes = Arc::new(RouteTable {
                generation,
                policies,
            });
        }
        Arc::clone(&self.routes)
    }

    /// Names for which neither an answer nor a failure came yet.
    pub fn unresolved(&self) -> Vec<Arc<str>> {
        self.leases.unresolved().cloned().collect()
    }

    /// Names whose last question failed, and why.
    pub fn failing(&self) -> Vec<(Arc<str>, Failure)> {
        self.leases
            .failing()
            .map(|(n, f)| (Arc::clone(n), f.clone()))
            .collect()
    }

    /// Generation of the kernel's policies, for `status`.
    pub fn generation(&self) -> u32 {
        self.planner.generation()
    }

    /// Addresses that were left out because a name was full.
    pub fn addresses_left_out(&self) -> u64 {
        self.leases.left_out()
    }
}

/// What every policy claims, whatever its rules.
fn fixed(settings: &Settings) -> Claims {
    let mut claims = Claims::new();
    for transport in [Transport::Tcp, Transport::Udp] {
        for server in &settings.dns_servers {
            let target = Target::address(server.ip(), server.port(), transport);
            claim(&mut claims, target, Action::Allow);
        }
        for net in &settings.internal {
            for target in Target::network(*net, 0, transport) {
                claim(&mut claims, target, Action::Allow);
            }
        }
    }
    claims
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
