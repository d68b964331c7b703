//! The state machine: rules, DNS answers and time in; kernel writes, questions and the proxy's
//! snapshot out.
//!
//! Owns the order in which everything else here is called. No input is ever refused: what cannot
//! be used denies. The shell does what `poll_*` says and reports back with `handle_*`.

use super::claims::{UnlistedAddress, claims, everywhere};
use super::diff::{Desired, Planner, TableOp};
use super::leases::store::Stored;
use super::leases::{Answer, Failure, LeaseSettings, Leases, Outcome};
use super::snapshot::Snapshot;
use super::tables::{Action, Claims, Delta, Ledger, Target, Transport, claim};
use crate::istio::Object;
use crate::registry::scope::{Scope, Workload};
use crate::registry::services::Service;
use crate::registry::view::View;
use crate::registry::{Change, Registry, Touched};
use crate::routing::RouteTable;
use egress_ebpf::abi::DEFAULT_POLICY;
use egress_ebpf::addr::Addr;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    /// Namespace whose Sidecar is for every namespace.
    pub root_namespace: String,
    /// What a workload that nobody told of is taken for.
    pub unknown: Workload,
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
            root_namespace: "istio-system".to_owned(),
            unknown: Workload::default(),
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
    pub(super) allow_any: bool,
}

/// See the module. A copy is the way back from rules that the kernel has no room for.
#[derive(Clone, Debug)]
pub struct State {
    settings: Settings,
    pub(super) registry: Registry,
    pub(super) leases: Leases,
    planner: Planner,
    pub(super) policies: BTreeMap<u32, PolicyState>,
    /// Workloads that were told of, with their policy.
    workloads: BTreeMap<u64, (Workload, u32)>,
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
            registry: Registry::empty(&settings.domain, &settings.root_namespace),
            leases: Leases::new(settings.leases.clone()),
            planner: planner.keeping_flows(settings.keep_removed),
            settings,
            policies: BTreeMap::new(),
            workloads: BTreeMap::new(),
            users: BTreeMap::new(),
            ops: VecDeque::new(),
            due: VecDeque::new(),
            rebuilt: false,
            routes: Arc::new(RouteTable::default()),
        }
    }

    /// Puts a whole new set of resources in force. They must have passed validation; those
    /// without a spec are left out. Addresses of names that stay listed are kept. Objects that
    /// are the same as before (the same `Arc`) are not looked at again.
    pub fn handle_rules(&mut self, now: Instant, objects: &[Arc<Object>]) {
        match self.registry.update(objects) {
            Change::Some(touched) if !self.policies.is_empty() => self.amend(now, &touched),
            Change::Some(_) | Change::Everything => self.rebuild(now),
        }
        self.handle_timeout(now);
    }

    /// Forgets the ops that were not polled and plans again from what the kernel has: tables that
    /// were filled step by step while names were asked for the first time become visible whole.
    pub fn replan(&mut self, standing: Planner) {
        self.planner = standing.keeping_flows(self.settings.keep_removed);
        self.ops.clear();
        self.replace();
    }

    /// A workload appeared, or is another than before. Its policy is [`Self::policy_of`] from
    /// here on, once the ops are written.
    pub fn handle_workload(&mut self, now: Instant, id: u64, workload: Workload) {
        let scope = self.registry.scope_of(&workload);
        let known = self.policies.iter().find(|(_, p)| p.view.scope == scope);
        let policy = known.map(|(id, _)| *id);
        if let (Some(policy), Some((_, held))) = (policy, self.workloads.get(&id))
            && policy == *held
        {
            self.workloads.insert(id, (workload, policy));
            return;
        }
        let policy = policy.unwrap_or_else(|| {
            // With no rules yet it is judged with the first ones.
            let first = self.policies.is_empty();
            let standing = self.planner.policies();
            let taken = |id: &u32| self.policies.contains_key(id) || standing.contains_key(id);
            let free = (1..u32::MAX).find(|id| !taken(id));
            let id = free.filter(|_| !first).unwrap_or(DEFAULT_POLICY);
            if !first {
                self.open(now, id, scope);
                self.replace();
            }
            id
        });
        self.workloads.insert(id, (workload, policy));
        self.sweep(now);
        self.handle_timeout(now);
    }

    /// A workload is gone.
    pub fn forget_workload(&mut self, now: Instant, id: u64) {
        if self.workloads.remove(&id).is_some() {
            self.sweep(now);
        }
    }

    /// The policy of a workload; of one that was not told of, the enforced root's default.
    pub fn policy_of(&self, id: u64) -> u32 {
        self.workloads.get(&id).map_or(DEFAULT_POLICY, |(_, p)| *p)
    }

    /// Every policy that no workload has any more goes.
    fn sweep(&mut self, now: Instant) {
        let used: BTreeSet<u32> = self.workloads.values().map(|(_, p)| *p).collect();
        let before = self.policies.len();
        self.policies
            .retain(|id, _| *id == DEFAULT_POLICY || used.contains(id));
        if self.policies.len() != before {
            self.users.clear();
            for policy in self.policies.values() {
                needs(&mut self.users, &policy.view);
            }
            self.leases.want(now, &self.users.keys().cloned().collect());
            self.replace();
        }
    }

    /// Policies of all workloads, each scope one. A scope keeps the id that it has.
    fn rebuild(&mut self, now: Instant) {
        let old: BTreeMap<Scope, u32> = self
            .policies
            .iter()
            .map(|(id, p)| (p.view.scope.clone(), *id))
            .collect();
        let default = self.registry.scope_of(&self.settings.unknown);
        let mut ids = BTreeMap::from([(default, DEFAULT_POLICY)]);
        // Adopted ones too: cgroups stand under them until they are told of another.
        let standing = self.planner.policies().keys();
        let mut taken: BTreeSet<u32> = self.policies.keys().chain(standing).copied().collect();
        let mut workloads = std::mem::take(&mut self.workloads);
        for (workload, policy) in workloads.values_mut() {
            let scope = self.registry.scope_of(workload);
            let kept = old.get(&scope).copied().filter(|id| *id != DEFAULT_POLICY);
            *policy = *ids.entry(scope).or_insert_with(|| {
                let free = || {
                    (1..u32::MAX)
                        .find(|id| !taken.contains(id))
                        .unwrap_or(DEFAULT_POLICY)
                };
                kept.unwrap_or_else(free)
            });
            taken.insert(*policy);
        }
        self.workloads = workloads;
        self.policies.clear();
        self.users.clear();
        for (scope, id) in ids {
            self.open(now, id, scope);
        }
        self.leases.want(now, &self.users.keys().cloned().collect());
        self.replace();
    }

    /// Makes a policy for a scope.
    fn open(&mut self, now: Instant, id: u32, scope: Scope) {
        let view = View::new(&self.registry, scope);
        needs(&mut self.users, &view);
        let names = view.services.values().flat_map(|s| s.lookups());
        names.for_each(|name| self.leases.add(now, name));
        let policy = self.policy(view);
        self.policies.insert(id, policy);
    }

    fn replace(&mut self) {
        let desired = |p: &PolicyState| Desired {
            table: p.ledger.table(),
            allow_any: p.allow_any,
            audit: self.settings.audit,
            errno: self.settings.deny_errno,
        };
        let policies = self.policies.iter();
        let desired = policies.map(|(id, p)| (*id, desired(p))).collect();
        let ops = self.planner.replace(desired);
        self.ops.extend(ops);
        self.rebuilt = true;
    }

    fn policy(&self, view: View) -> PolicyState {
        let allow_any = view.scope.allow_any().unwrap_or(self.settings.allow_any);
        let snapshot = Snapshot::new(&view, &self.leases, passthrough(&self.settings, allow_any));
        let mut policy = PolicyState {
            view,
            snapshot,
            allow_any,
            ..PolicyState::default()
        };
        policy
            .ledger
            .replace(&Claims::new(), &fixed(&self.settings));
        let hosts: Vec<_> = policy.view.services.keys().cloned().collect();
        for host in hosts {
            policy.reclaim(&host, &self.leases, self.settings.unlisted_address);
        }
        policy
    }

    /// A few rules changed.
    fn amend(&mut self, now: Instant, touched: &Touched) {
        let mut hosts = BTreeSet::new();
        let before = self.lookups(touched);
        for policy in self.policies.values_mut() {
            let changed = policy
                .view
                .update(&self.registry, &touched.services, &touched.rules);
            for (host, old) in changed {
                policy
                    .snapshot
                    .replan(&host, &old, &policy.view, &self.leases);
                hosts.insert(host);
            }
        }
        let after = self.lookups(touched);
        for (name, host) in before.difference(&after) {
            if let Some(users) = self.users.get_mut(name) {
                users.remove(host);
                if users.is_empty() {
                    self.users.remove(name);
                    self.leases.forget(name);
                }
            }
        }
        for (name, host) in after.difference(&before) {
            let users = self.users.entry(Arc::clone(name)).or_default();
            users.insert(Arc::clone(host));
            self.leases.add(now, name);
        }
        let changes = self.reclaim(&hosts);
        let ops = self.planner.amend(&changes);
        self.ops.extend(ops);
    }

    /// Names that the touched services need, each with the host that needs it.
    fn lookups(&self, touched: &Touched) -> BTreeSet<(Arc<str>, Arc<str>)> {
        let policies = self.policies.values();
        let services = policies.flat_map(|p| {
            touched
                .services
                .iter()
                .filter_map(|h| p.view.services.get(h))
        });
        let names =
            services.flat_map(|s| s.lookups().map(|n| (Arc::clone(n), Arc::clone(&s.host))));
        names.collect()
    }

    /// What hosts that changed claim, in every policy.
    fn reclaim(&mut self, hosts: &BTreeSet<Arc<str>>) -> BTreeMap<u32, Delta> {
        let mut changes: BTreeMap<u32, Delta> = BTreeMap::new();
        for (id, policy) in &mut self.policies {
            for host in hosts {
                let delta = policy.reclaim(host, &self.leases, self.settings.unlisted_address);
                changes.entry(*id).or_default().extend(delta);
            }
        }
        changes
    }

    /// Takes what an agent before this one left: names that are wanted and not answered yet have
    /// their last good addresses until they are. `clock` is the time since 1970. Returns how many
    /// names got some.
    pub fn handle_stored(&mut self, now: Instant, clock: Duration, stored: &Stored) -> usize {
        let names = self.leases.restore(now, clock, stored);
        self.relocate(names.iter().map(|n| &**n));
        names.len()
    }

    /// What the next agent is to have of the leases, as text.
    pub fn stored(&self, now: Instant, clock: Duration) -> String {
        self.leases.store(now, clock)
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
        let changes = self.reclaim(&hosts);
        for policy in self.policies.values_mut() {
            for host in &hosts {
                policy.snapshot.relocate(host, &policy.view, &self.leases);
            }
        }
        let ops = self.planner.update(&changes);
        self.ops.extend(ops);
    }

    /// The kernel has other owners for some cgroups: sockets that it judged under these policies
    /// are judged anew. To be called once the owners are written.
    pub fn handle_moved(&mut self, policies: impl IntoIterator<Item = u32>) {
        self.ops.extend(self.planner.renew(policies));
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
                .map(|(id, p)| (*id, p.snapshot.routes(&p.view, &self.leases)))
                .collect();
            let generation = self.routes.generation + 1;
            self.routes = Arc::new(RouteTable {
                generation,
                policies,
            });
        }
        Arc::clone(&self.routes)
    }

    /// Names without an address.
    pub fn addressless(&self) -> Vec<Arc<str>> {
        let names = self.users.keys();
        names
            .filter(|name| self.leases.leased(name).next().is_none())
            .cloned()
            .collect()
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

/// Adds the names that a view's services need, each with the hosts that need it.
fn needs(users: &mut BTreeMap<Arc<str>, BTreeSet<Arc<str>>>, view: &View) {
    for (host, service) in &view.services {
        for name in service.lookups() {
            let users = users.entry(Arc::clone(name)).or_default();
            users.insert(Arc::clone(host));
        }
    }
}

impl PolicyState {
    /// Services that claim a destination.
    pub(super) fn covering(&self, ip: IpAddr, port: u16, via: Transport) -> Vec<&Arc<Service>> {
        let addr = Addr::from(ip).canonical();
        let claimed = self.claims.iter();
        let hosts = claimed.filter(|(_, c)| c.keys().any(|t| t.covers(addr, port, via)));
        hosts
            .filter_map(|(host, _)| self.view.services.get(host))
            .collect()
    }

    /// Whether a destination is in the table, but for no service's sake.
    pub(super) fn fixed(&self, to: SocketAddr) -> bool {
        let addr = Addr::from(to.ip()).canonical();
        let via = [Transport::Tcp, Transport::Udp];
        let listed = |t: &Target| via.iter().any(|v| t.covers(addr, to.port(), *v));
        let mine = |t: &Target| self.claims.values().any(|c| c.contains_key(t));
        self.ledger.table().keys().any(|t| listed(t) && !mine(t))
    }

    /// Services with this port whose addresses come from DNS.
    pub(super) fn by_name(&self, port: u16) -> impl Iterator<Item = &Arc<Service>> {
        let services = self.view.services.values();
        services.filter(move |s| s.class(port).is_some() && s.lookups().next().is_some())
    }

    /// Puts what a host claims into the ledger; nothing if it is not visible.
    fn reclaim(&mut self, host: &Arc<str>, leases: &Leases, unlisted: UnlistedAddress) -> Delta {
        let found = self.view.services.get(host).zip(self.view.plans.get(host));
        let new = found.map(|(service, plan)| claims(service, plan, leases, unlisted));
        let old = self.claims.remove(host).unwrap_or_default();
        let new = new.unwrap_or_default();
        let delta = self.ledger.replace(&old, &new);
        if !new.is_empty() {
            self.claims.insert(Arc::clone(host), new);
        }
        delta
    }
}

/// Destinations of every policy that may be reached whatever is spoken.
fn passthrough(settings: &Settings, allow_any: bool) -> Vec<IpNet> {
    if allow_any {
        return everywhere().to_vec();
    }
    settings.internal.iter().map(IpNet::trunc).collect()
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
