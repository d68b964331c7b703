//! The registry: every service that rules list and the `VirtualService`s for them.
//!
//! Made from resources that passed validation, by pure functions; objects that could not be
//! decoded are no part of it. Changes with the rules in place, so that one changed object among
//! many costs its own part. Knows no address that DNS gave.

mod delegate;
mod destination_policy;
mod l4;
pub mod lint;
pub mod not_done;
pub mod plan;
mod routes;
pub mod scope;
#[cfg(test)]
mod scope_tests;
pub mod services;
mod sidecars;
mod target;
#[cfg(test)]
mod tests;
pub mod view;
mod virtual_service;

use crate::istio::hosts;
use crate::istio::workload_entry::WorkloadEntry;
use crate::istio::{Object, Spec};
use scope::{Dependences, Scope};
use services::Entry;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
pub use virtual_service::VirtualService;

/// So many changed objects are taken in one by one, however few there are in all.
const FEW: usize = 16;

/// Istio's age rule: creation time, then name and namespace (`sortConfigByCreationTime`); files
/// without a time are oldest. The rest only makes the order a total one.
pub fn by_age(a: &Object, b: &Object) -> Ordering {
    let key = |o: &Object| (o.document, o.line);
    (
        &a.meta.creation_timestamp,
        &a.meta.name,
        &a.meta.namespace,
        &a.source,
    )
        .cmp(&(
            &b.meta.creation_timestamp,
            &b.meta.name,
            &b.meta.namespace,
            &b.source,
        ))
        .then_with(|| key(a).cmp(&key(b)))
}

/// What an update changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Anything; what was made from the registry must be made anew.
    Everything,
    /// Only this.
    Some(Touched),
}

/// What an update did, which [`Registry::go_back`] undoes.
#[derive(Debug)]
pub struct Update {
    /// What it changed.
    pub change: Change,
    added: Vec<Arc<Object>>,
    gone: Vec<Arc<Object>>,
}

/// Hosts that an update touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Hosts whose entries are others.
    pub services: BTreeSet<Arc<str>>,
    /// Hosts and wildcards whose `VirtualService`s are others.
    pub rules: BTreeSet<Arc<str>>,
}

/// Every service and every rule about one.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// Every object, by its place in memory, with the update that saw it last.
    held: HashMap<usize, (Arc<Object>, u64)>,
    updates: u64,
    /// `ServiceEntry`s by host in canonical form, oldest first.
    pub(crate) entries: BTreeMap<Arc<str>, Vec<Arc<Entry>>>,
    /// `VirtualService`s by host in canonical form, oldest first.
    pub(crate) rules: BTreeMap<Arc<str>, Vec<VirtualService>>,
    /// `VirtualService`s without hosts, by namespace and name.
    delegates: BTreeMap<(String, String), VirtualService>,
    /// `DestinationRule`s by host in canonical form, oldest first.
    destination_rules: BTreeMap<Arc<str>, Vec<Arc<Object>>>,
    /// Oldest first.
    sidecars: Vec<Arc<Object>>,
    workload_entries: Vec<Arc<Object>>,
    dependences: Dependences,
    /// Domain of short names.
    pub domain: Arc<str>,
    /// Namespace whose Sidecar is for every namespace.
    pub root_namespace: Arc<str>,
}

impl Registry {
    /// Nothing. `domain` completes short names, `cluster.local` as a rule; `root_namespace` is
    /// `istio-system` as a rule.
    pub fn empty(domain: &str, root_namespace: &str) -> Self {
        Self {
            domain: domain.into(),
            root_namespace: root_namespace.into(),
            ..Self::default()
        }
    }

    /// From resources, whatever their order, with the usual root namespace.
    pub fn new(objects: &[Arc<Object>], domain: &str) -> Self {
        let mut new = Self::empty(domain, "istio-system");
        let _ = new.update(objects);
        new
    }

    /// Makes these the resources. An object that is the same one as before (by its place in
    /// memory) costs next to nothing.
    #[must_use]
    pub fn update(&mut self, objects: &[Arc<Object>]) -> Update {
        self.updates += 1;
        let mut added = Vec::new();
        for object in objects {
            let place = Arc::as_ptr(object).addr();
            match self.held.get_mut(&place) {
                Some((_, seen)) => *seen = self.updates,
                None => added.push(Arc::clone(object)),
            }
        }
        let fresh: BTreeSet<usize> = added.iter().map(|o| Arc::as_ptr(o).addr()).collect();
        let mut gone = Vec::new();
        if self.held.len() + fresh.len() > objects.len() || added.len() > fresh.len() {
            self.held.retain(|_, (object, seen)| {
                let stays = *seen == self.updates;
                if !stays {
                    gone.push(Arc::clone(object));
                }
                stays
            });
        }
        for object in &added {
            let place = Arc::as_ptr(object).addr();
            self.held.insert(place, (Arc::clone(object), self.updates));
        }
        let few = added.len() + gone.len() <= FEW.max(self.held.len() / 8);
        let change = if few && gone.iter().chain(&added).all(|o| is_plain(o)) {
            let mut touched = Touched::default();
            for object in &gone {
                self.take_out(object, &mut touched);
            }
            for object in &added {
                self.put_in(object, &mut touched);
            }
            Change::Some(touched)
        } else {
            self.rebuild();
            Change::Everything
        };
        Update {
            change,
            added,
            gone,
        }
    }

    /// Makes the resources those from before an update, which must be the last one.
    pub fn go_back(&mut self, update: Update) {
        for object in &update.added {
            self.held.remove(&Arc::as_ptr(object).addr());
        }
        for object in &update.gone {
            let place = Arc::as_ptr(object).addr();
            self.held.insert(place, (Arc::clone(object), self.updates));
        }
        match update.change {
            Change::Some(mut touched) => {
                for object in &update.added {
                    self.take_out(object, &mut touched);
                }
                for object in &update.gone {
                    self.put_in(object, &mut touched);
                }
            }
            Change::Everything => self.rebuild(),
        }
    }

    fn rebuild(&mut self) {
        let mut objects: Vec<_> = self.held.values().map(|(o, _)| Arc::clone(o)).collect();
        objects.sort_by(|a, b| by_age(a, b));
        let held = std::mem::take(&mut self.held);
        *self = Self {
            held,
            updates: self.updates,
            ..Self::empty(&self.domain, &self.root_namespace)
        };
        // Selected by entries, so there before them.
        let entries = objects
            .iter()
            .filter(|o| matches!(o.spec, Some(Spec::WorkloadEntry(_))));
        self.workload_entries = entries.cloned().collect();
        for object in &objects {
            self.dependences.add(object);
            self.put_in(object, &mut Touched::default());
        }
    }

    fn put_in(&mut self, object: &Arc<Object>, touched: &mut Touched) {
        match &object.spec {
            Some(Spec::ServiceEntry(spec)) => {
                let selected = self.selected(object, spec.workload_selector.as_ref());
                let entry = Arc::new(Entry::new(Arc::clone(object), spec, selected.as_deref()));
                for host in &spec.hosts {
                    let host = hosts::canonical(host);
                    let same = self.entries.entry(Arc::clone(&host)).or_default();
                    // A host that is listed twice in one entry is one.
                    if !same.iter().any(|e| Arc::ptr_eq(e, &entry)) {
                        insert(same, &entry, |e| &e.object);
                    }
                    touched.services.insert(host);
                }
            }
            Some(Spec::VirtualService(spec)) => {
                let vs = VirtualService {
                    object: Arc::clone(object),
                };
                if spec.hosts.is_empty() {
                    let meta = &object.meta;
                    let key = (meta.namespace.clone(), meta.name.clone());
                    self.delegates.entry(key).or_insert(vs);
                } else if vs.serves_mesh() {
                    for host in &spec.hosts {
                        let host = hosts::full_name(host, &object.meta.namespace, &self.domain);
                        insert(self.rules.entry(Arc::clone(&host)).or_default(), &vs, |v| {
                            &v.object
                        });
                        touched.rules.insert(host);
                    }
                }
            }
            Some(Spec::DestinationRule(spec)) => {
                let host = hosts::full_name(&spec.host, &object.meta.namespace, &self.domain);
                insert(
                    self.destination_rules.entry(host).or_default(),
                    object,
                    |o| o,
                );
            }
            Some(Spec::Sidecar(_)) => insert(&mut self.sidecars, object, |o| o),
            Some(Spec::WorkloadEntry(_)) | None => {}
        }
    }

    fn take_out(&mut self, object: &Arc<Object>, touched: &mut Touched) {
        match &object.spec {
            Some(Spec::ServiceEntry(spec)) => {
                for host in &spec.hosts {
                    let host = hosts::canonical(host);
                    if let Some(entries) = self.entries.get_mut(&host) {
                        entries.retain(|e| !Arc::ptr_eq(&e.object, object));
                        if entries.is_empty() {
                            self.entries.remove(&host);
                        }
                    }
                    touched.services.insert(host);
                }
            }
            Some(Spec::VirtualService(spec)) => {
                for host in &spec.hosts {
                    let host = hosts::full_name(host, &object.meta.namespace, &self.domain);
                    if let Some(all) = self.rules.get_mut(&host) {
                        all.retain(|v| !Arc::ptr_eq(&v.object, object));
                        if all.is_empty() {
                            self.rules.remove(&host);
                        }
                        touched.rules.insert(host);
                    }
                }
            }
            Some(Spec::DestinationRule(_) | Spec::Sidecar(_) | Spec::WorkloadEntry(_)) | None => {}
        }
    }

    /// The `WorkloadEntry`s that an entry selects, of its namespace.
    fn selected(
        &self,
        object: &Object,
        selector: Option<&crate::istio::fields::WorkloadSelector>,
    ) -> Option<Vec<WorkloadEntry>> {
        let labels = &selector?.labels;
        let here = self.workload_entries.iter();
        let here = here.filter(|o| o.meta.namespace == object.meta.namespace);
        let chosen = here.filter_map(|o| match &o.spec {
            Some(Spec::WorkloadEntry(w)) => {
                // Labels of the object count as the workload's too.
                let label = |k| w.labels.get(k).or_else(|| o.meta.labels.get(k));
                let all = labels.iter().all(|(k, v)| label(k) == Some(v));
                all.then(|| w.clone())
            }
            _ => None,
        });
        Some(chosen.collect())
    }

    /// The `VirtualService`s that are visible and in force for a host, the most specific first,
    /// each specificity by age.
    pub(crate) fn rules_for(
        &self,
        host: &str,
        scope: &Scope,
    ) -> impl Iterator<Item = &VirtualService> {
        let visible = |vs: &&VirtualService| {
            let (spec, namespace) = (vs.spec(), &vs.object.meta.namespace);
            scope.sees(&spec.export_to, namespace) && scope.imports_rule(namespace, &spec.hosts)
        };
        // Wildcards sort before every name.
        let first = self.rules.keys().next();
        let wildcards = first.is_some_and(|host| hosts::is_wildcard(host));
        hosts::patterns(host)
            .take(if wildcards { usize::MAX } else { 1 })
            .filter_map(|p| self.rules.get(&*p))
            .flatten()
            .filter(visible)
    }
}

/// Whether nothing but its own hosts depends on an object.
fn is_plain(object: &Object) -> bool {
    let delegates = || match &object.spec {
        Some(Spec::VirtualService(vs)) => vs.hosts.is_empty(),
        _ => false,
    };
    match object.spec {
        Some(Spec::ServiceEntry(_) | Spec::VirtualService(_)) => {
            !Dependences::default().add(object) && !delegates()
        }
        Some(Spec::DestinationRule(_) | Spec::Sidecar(_) | Spec::WorkloadEntry(_)) => false,
        None => true,
    }
}

/// Inserts by age.
fn insert<T: Clone>(list: &mut Vec<T>, item: &T, object: impl Fn(&T) -> &Arc<Object>) {
    let at = list.partition_point(|e| by_age(object(e), object(item)).is_le());
    list.insert(at, item.clone());
}
