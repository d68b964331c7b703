//! The part of the registry that one workload sees: its services and their plans.
//!
//! Owns which entries are visible, and which are checked again after a rule change. A copy shares unchanged parts, and
//! the view of another scope is made from a copy.

use super::Registry;
use super::plan::{Context, HostPlan, To};
use super::routes;
use super::scope::{Imported, Scope};
use super::services::{Entry, Service};
use super::target::registered;
use super::touched::{Part, Touched, What};
use crate::istio::hosts;
use crate::sharing::{share, share_set};
use imbl::{OrdMap, OrdSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Services and their routes, by host in canonical form.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Whose view it is.
    pub scope: Scope,
    /// Services.
    pub services: OrdMap<Arc<str>, Arc<Service>>,
    /// The plan of each service, by port.
    pub plans: OrdMap<Arc<str>, Arc<HostPlan>>,
    /// For each host, the hosts whose routes lead to it.
    used_by: OrdMap<Arc<str>, OrdSet<Arc<str>>>,
    /// Ports of hosts without `addresses` whose bytes may have no name, each with its hosts. Empty if the agent allocates no
    /// addresses.
    nameless: OrdSet<(u16, Arc<str>)>,
    /// Where TCP goes that nothing lists, if its Sidecar says so.
    pub unlisted: Option<To>,
}

/// Services that were made for a view, by host.
pub type Made = BTreeMap<Arc<str>, Arc<Service>>;

/// What a view checked again.
#[derive(Debug, Default)]
pub struct Looked {
    /// Hosts whose service may have changed.
    pub services: BTreeSet<Arc<str>>,
    /// Hosts whose routes may have changed, with their former plans.
    pub plans: BTreeMap<Arc<str>, Arc<HostPlan>>,
}

impl View {
    /// What is visible in a scope.
    pub fn new(registry: &Registry, scope: Scope) -> Self {
        let mut view = Self {
            scope,
            ..Self::default()
        };
        for (host, entries) in &registry.entries {
            let service = view.service(host, entries);
            view.services.extend(service.map(|s| (Arc::clone(host), s)));
        }
        let hosts: Vec<_> = view.services.keys().cloned().collect();
        if registry.allocates() {
            for (host, service) in &view.services {
                let ports = service.nameless_ports().into_iter();
                view.nameless
                    .extend(ports.map(|port| (port, Arc::clone(host))));
            }
            for host in &hosts {
                let service = view.services.get(host).cloned();
                let service = service.map(|service| view.with_allocated(registry, service));
                replace(&mut view.services, host, service);
            }
        }
        for host in hosts {
            view.plan(&host, registry);
        }
        view.lead_unlisted(registry);
        view
    }

    /// Everything that is registered, wherever it is exported to.
    pub fn everything(registry: &Registry) -> Self {
        Self::new(registry, Scope::everything())
    }

    /// The view of another scope, which must be [near](Registry::are_near) this one, and what may differ from this
    /// view.
    pub fn in_scope(&self, registry: &Registry, scope: Scope) -> (Self, Looked) {
        let touched = registry.apart(&self.scope, &scope);
        let mut view = Self {
            scope,
            ..self.clone()
        };
        let looked = view.look_at(registry, &touched.parts, &mut Made::default());
        (view, looked)
    }

    /// Checks again what an update touched, as far as it is visible. `made` has the services that were made for views
    /// updated before this one, so that views that see the same share a service.
    pub fn update(&mut self, registry: &Registry, touched: &Touched, made: &mut Made) -> Looked {
        let parts = touched.parts.iter();
        let seen: Vec<&Part> = parts.filter(|p| p.is_seen(&self.scope)).collect();
        self.look_at(registry, seen, made)
    }

    /// Shares the plans that are the same in another view.
    pub(crate) fn share(&mut self, other: &Self) {
        share(&mut self.plans, &other.plans);
        share_set(&mut self.nameless, &other.nameless);
    }

    fn look_at<'a>(
        &mut self,
        registry: &Registry,
        parts: impl IntoIterator<Item = &'a Part>,
        made: &mut Made,
    ) -> Looked {
        let mut looked = Looked::default();
        let mut hosts = BTreeSet::new();
        for part in parts {
            match part.what {
                What::Services => {
                    let namespace = &part.object.meta.namespace;
                    let concerned = |h: &&Arc<str>| {
                        self.services.contains_key(*h)
                            || self.scope.imports(namespace, h) != Imported::No
                    };
                    let of = part.hosts.iter().filter(concerned).cloned();
                    looked.services.extend(of);
                }
                What::Routes => {
                    for pattern in &part.hosts {
                        hosts.extend(self.covered(pattern));
                    }
                }
                What::Destinations => {
                    for pattern in &part.hosts {
                        hosts.extend(self.covered(pattern));
                        hosts.extend(self.users_of(pattern));
                    }
                }
            }
        }
        let beside = self.note_nameless(registry, &looked.services);
        looked.services.extend(beside);
        for host in &looked.services {
            let entries = registry.entries.get(host);
            let service = entries.and_then(|all| self.service(host, all));
            let service = service.map(|service| self.with_allocated(registry, service));
            let service = service.map(|service| match made.get(host) {
                Some(same) if same.is_of_the_same(&service) => Arc::clone(same),
                _ => {
                    made.insert(Arc::clone(host), Arc::clone(&service));
                    service
                }
            });
            replace(&mut self.services, host, service);
            hosts.insert(Arc::clone(host));
            hosts.extend(self.used_by.get(host).into_iter().flatten().cloned());
        }
        let replan = |host: Arc<str>| {
            let old = self.plan(&host, registry);
            (host, old)
        };
        looked.plans = hosts.into_iter().map(replan).collect();
        self.lead_unlisted(registry);
        looked
    }

    /// Services that a host or wildcard covers.
    fn covered(&self, pattern: &Arc<str>) -> Vec<Arc<str>> {
        if hosts::is_wildcard(pattern) {
            let all = self.services.keys();
            return all.filter(|h| hosts::covers(pattern, h)).cloned().collect();
        }
        let known = self.services.contains_key(pattern);
        known.then(|| Arc::clone(pattern)).into_iter().collect()
    }

    /// Services whose routes lead to a host, or to one that a wildcard covers, whether it is known or not.
    fn users_of(&self, pattern: &Arc<str>) -> Vec<Arc<str>> {
        if hosts::is_wildcard(pattern) {
            let all = self.used_by.iter();
            let covered = all.filter(|(h, _)| hosts::covers(pattern, h));
            return covered.flat_map(|(_, users)| users).cloned().collect();
        }
        let users = self.used_by.get(pattern).into_iter();
        users.flatten().cloned().collect()
    }

    /// Rebuilds a host's plan. Returns the former one, which stays in place if the new one is equal.
    fn plan(&mut self, host: &Arc<str>, registry: &Registry) -> Arc<HostPlan> {
        let old = self.plans.get(host).cloned();
        let context = self.context(registry);
        let service = self.services.get(host);
        let new = service.map(|service| Arc::new(routes::plan(service, &context)));
        if new != old {
            self.uses(host, old.as_deref(), new.as_deref());
            replace(&mut self.plans, host, new);
        }
        old.unwrap_or_default()
    }

    fn lead_unlisted(&mut self, registry: &Registry) {
        let to = self.scope.egress_proxy().cloned();
        self.unlisted = to.map(|to| registered(to, &self.context(registry)));
    }

    const fn context<'a>(&'a self, registry: &'a Registry) -> Context<'a> {
        Context {
            registry,
            services: &self.services,
            scope: &self.scope,
        }
    }

    /// Notes that the routes of a host lead to other hosts.
    fn uses(&mut self, host: &Arc<str>, old: Option<&HostPlan>, new: Option<&HostPlan>) {
        let others = |plan: Option<&HostPlan>| -> BTreeSet<Arc<str>> {
            let hosts = plan.into_iter().flat_map(HostPlan::destinations);
            let hosts = hosts.map(|to| Arc::clone(&to.id.host));
            hosts.filter(|to| to != host).collect()
        };
        let (old, new) = (others(old), others(new));
        for to in old.difference(&new) {
            let mut users = self.used_by.get(to).cloned().unwrap_or_default();
            users.remove(host);
            replace(
                &mut self.used_by,
                to,
                Some(users).filter(|users| !users.is_empty()),
            );
        }
        for to in new.difference(&old) {
            let users = self.used_by.entry(Arc::clone(to)).or_default();
            users.insert(Arc::clone(host));
        }
    }

    /// Updates the hosts of each nameless port after these hosts may have changed. Returns the other hosts that are the
    /// first or the last but one on a port.
    fn note_nameless(
        &mut self,
        registry: &Registry,
        hosts: &BTreeSet<Arc<str>>,
    ) -> BTreeSet<Arc<str>> {
        if !registry.allocates() {
            return BTreeSet::new();
        }
        let (mut left, mut came) = (Vec::new(), Vec::new());
        for host in hosts {
            let old = self.services.get(host).map(|s| s.nameless_ports());
            let entries = registry.entries.get(host);
            let new = entries.and_then(|all| self.service(host, all));
            let new = new.map(|s| s.nameless_ports()).unwrap_or_default();
            let old = old.unwrap_or_default();
            left.extend(old.difference(&new).map(|port| (*port, Arc::clone(host))));
            came.extend(new.difference(&old).map(|port| (*port, Arc::clone(host))));
        }
        let ports: BTreeSet<u16> = left.iter().chain(&came).map(|(port, _)| *port).collect();
        let alone = |view: &Self| -> Vec<Arc<str>> {
            let alone = ports.iter().filter_map(|port| view.alone(*port));
            alone.cloned().collect()
        };
        let mut beside = alone(self);
        for at in &left {
            self.nameless.remove(at);
        }
        self.nameless.extend(came);
        beside.extend(alone(self));
        beside.into_iter().collect()
    }

    /// The only host of a nameless port.
    fn alone(&self, port: u16) -> Option<&Arc<str>> {
        let mut hosts = self.of_nameless(port);
        hosts.next().filter(|_| hosts.next().is_none())
    }

    fn of_nameless(&self, port: u16) -> impl Iterator<Item = &Arc<str>> {
        let all = self.nameless.range((port, Arc::default())..);
        all.take_while(move |(of, _)| *of == port)
            .map(|(_, host)| host)
    }

    /// A service with the addresses that the agent gave it, if another host has one of its nameless ports. A host with
    /// `addresses` does not count: clients dial it there.
    fn with_allocated(&self, registry: &Registry, service: Arc<Service>) -> Arc<Service> {
        if !registry.allocates() || !service.may_have_allocated() {
            return service;
        }
        let ports = service.nameless_ports().into_iter();
        let mut others = ports.flat_map(|port| self.of_nameless(port));
        let is_shared = others.any(|host| *host != service.host);
        let allocated = if is_shared {
            registry.allocated(&service.host)
        } else {
            Vec::new()
        };
        if allocated == service.allocated {
            return service;
        }
        Arc::new(Service {
            allocated,
            ..Service::clone(&service)
        })
    }

    /// The service of a host, made from the visible entries.
    fn service(&self, host: &Arc<str>, entries: &[Arc<Entry>]) -> Option<Arc<Service>> {
        let visible = |entry: &Arc<Entry>| {
            let namespace = &entry.object.meta.namespace;
            if !self.scope.sees(&entry.export_to, namespace) {
                return None;
            }
            match self.scope.imports(namespace, host) {
                Imported::No => None,
                Imported::Whole => Some(Arc::clone(entry)),
                Imported::Ports(ports) => Some(Arc::new(entry.with_ports_of(&ports))),
            }
        };
        let entries: Vec<_> = entries.iter().filter_map(visible).collect();
        (!entries.is_empty()).then(|| Arc::new(Service::new(Arc::clone(host), entries)))
    }
}

/// Sets or removes a value. Does not touch the map if there is nothing to remove, because that would copy shared nodes.
fn replace<V: Clone>(map: &mut OrdMap<Arc<str>, V>, host: &Arc<str>, value: Option<V>) {
    match value {
        Some(value) => drop(map.insert(Arc::clone(host), value)),
        None if map.contains_key(host) => drop(map.remove(host)),
        None => {}
    }
}
