//! The part of the registry that one workload sees: its services and their plans.
//!
//! Owns which entries are visible, and which of them a rule change makes it check again.

use super::Registry;
use super::plan::{Context, HostPlan};
use super::routes;
use super::scope::{Imported, Scope};
use super::services::{Entry, Service};
use super::touched::{Touched, What};
use crate::istio::hosts;
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Services and their routes, by host in canonical form.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Whose view it is.
    pub scope: Scope,
    /// Services. A copy of the map shares what did not change.
    pub services: OrdMap<Arc<str>, Arc<Service>>,
    /// What each does, by port.
    pub plans: BTreeMap<Arc<str>, HostPlan>,
    /// Hosts whose routes lead to another one.
    used_by: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

/// What a view looked at again.
#[derive(Debug, Default)]
pub struct Looked {
    /// Hosts that may have another service.
    pub services: BTreeSet<Arc<str>>,
    /// Hosts whose routes may be others, with their former plans.
    pub plans: BTreeMap<Arc<str>, HostPlan>,
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
        for host in hosts {
            view.plan(&host, registry);
        }
        view
    }

    /// Everything that is registered, wherever it is exported to.
    pub fn everything(registry: &Registry) -> Self {
        Self::new(registry, Scope::everything())
    }

    /// Checks again what an update touched, as far as it is visible.
    pub fn update(&mut self, registry: &Registry, touched: &Touched) -> Looked {
        let mut looked = Looked::default();
        let mut hosts = BTreeSet::new();
        for part in touched.parts.iter().filter(|p| p.is_seen(&self.scope)) {
            match part.what {
                What::Services => {
                    let namespace = &part.object.meta.namespace;
                    let imported = |h: &&Arc<str>| self.scope.imports(namespace, h) != Imported::No;
                    let of = part.hosts.iter().filter(imported).cloned();
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
        for host in &looked.services {
            let entries = registry.entries.get(host);
            match entries.and_then(|all| self.service(host, all)) {
                Some(service) => self.services.insert(Arc::clone(host), service),
                None => self.services.remove(host),
            };
            hosts.insert(Arc::clone(host));
            hosts.extend(self.used_by.get(host).into_iter().flatten().cloned());
        }
        let replan = |host: Arc<str>| {
            let old = self.plan(&host, registry);
            (host, old)
        };
        looked.plans = hosts.into_iter().map(replan).collect();
        looked
    }

    /// Services that a host or wildcard is for.
    fn covered(&self, pattern: &Arc<str>) -> Vec<Arc<str>> {
        if hosts::is_wildcard(pattern) {
            let all = self.services.keys();
            return all.filter(|h| hosts::covers(pattern, h)).cloned().collect();
        }
        let known = self.services.contains_key(pattern);
        known.then(|| Arc::clone(pattern)).into_iter().collect()
    }

    /// Services whose routes lead to a host, or to one that a wildcard is for, known or not.
    fn users_of(&self, pattern: &Arc<str>) -> Vec<Arc<str>> {
        if hosts::is_wildcard(pattern) {
            let all = self.used_by.iter();
            let covered = all.filter(|(h, _)| hosts::covers(pattern, h));
            return covered.flat_map(|(_, users)| users).cloned().collect();
        }
        let users = self.used_by.get(pattern).into_iter();
        users.flatten().cloned().collect()
    }

    /// Rebuilds a host's plan. Returns the former one.
    fn plan(&mut self, host: &Arc<str>, registry: &Registry) -> HostPlan {
        let old = self.plans.remove(host).unwrap_or_default();
        for to in old.destinations() {
            if let Some(users) = self.used_by.get_mut(&to.id.host) {
                users.remove(host);
                if users.is_empty() {
                    self.used_by.remove(&to.id.host);
                }
            }
        }
        let Some(service) = self.services.get(host) else {
            return old;
        };
        let context = Context {
            registry,
            services: &self.services,
            scope: &self.scope,
        };
        let plan = routes::plan(service, &context);
        for to in plan.destinations() {
            if to.id.host != *host {
                let users = self.used_by.entry(Arc::clone(&to.id.host)).or_default();
                users.insert(Arc::clone(host));
            }
        }
        self.plans.insert(Arc::clone(host), plan);
        old
    }

    /// The service of a host, of the entries that are visible.
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
