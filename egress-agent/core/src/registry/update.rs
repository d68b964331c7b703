//! Updates the registry when rules change, object by object.
//!
//! Owns what each kind of object touches. `view` uses the result.

use super::delegate::{named, own_name};
use super::services::Entry;
use super::touched::{Touched, What};
use super::vips::Vips;
use super::{Named, Registry, VirtualService, by_age};
use crate::istio::fields::WorkloadSelector;
use crate::istio::service_entry::ServiceEntry;
use crate::istio::workload_entry::WorkloadEntry;
use crate::istio::{Object, Spec, hosts, virtual_service};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Up to this many changed objects are applied one by one, even if there are few objects in all.
const FEW: usize = 16;

/// What an update changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// Possibly anything: all that was made from the registry must be rebuilt.
    Everything,
    /// Only this.
    Some(Touched),
}

/// What an update did, which [`Registry::go_back`] undoes.
#[derive(Debug)]
pub struct Update {
    /// What it changed.
    pub change: Change,
    /// The allocated addresses before it.
    vips: Option<Vips>,
    added: Vec<Arc<Object>>,
    gone: Vec<Arc<Object>>,
}

/// An object is added or removed.
#[derive(Clone, Copy)]
enum Step {
    Add,
    Remove,
}

impl Step {
    /// Adds an item to the list of a key, ordered by age, or removes it from there.
    fn take<K: Ord + Clone, T: Clone>(
        self,
        map: &mut BTreeMap<K, Vec<T>>,
        key: &K,
        item: &T,
        object: impl Fn(&T) -> &Arc<Object>,
    ) {
        match self {
            Self::Add => {
                let list = map.entry(key.clone()).or_default();
                let at = list.partition_point(|e| by_age(object(e), object(item)).is_le());
                list.insert(at, item.clone());
            }
            Self::Remove => remove(map, key, |e| Arc::ptr_eq(object(e), object(item))),
        }
    }
}

impl Registry {
    /// Replaces the resources. An object that is the same as before (by its place in memory) costs almost nothing.
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
        self.apply(added, gone)
    }

    /// As [`Self::update`], for a caller that knows the changes. Objects that stay cost nothing. An object that is in
    /// both lists stays.
    #[must_use]
    pub fn change(&mut self, added: &[Arc<Object>], gone: &[Arc<Object>]) -> Update {
        self.updates += 1;
        let places = |list: &[Arc<Object>]| -> BTreeSet<usize> {
            list.iter().map(|o| Arc::as_ptr(o).addr()).collect()
        };
        let (coming, leaving) = (places(added), places(gone));
        let mut left = Vec::new();
        for place in leaving.difference(&coming) {
            left.extend(self.held.remove(place).map(|(object, _)| object));
        }
        let mut came = Vec::new();
        for object in added {
            let place = Arc::as_ptr(object).addr();
            let held = (Arc::clone(object), self.updates);
            if self.held.insert(place, held).is_none() {
                came.push(Arc::clone(object));
            }
        }
        self.apply(came, left)
    }

    /// Applies changes that are already in `held`.
    fn apply(&mut self, added: Vec<Arc<Object>>, gone: Vec<Arc<Object>>) -> Update {
        let vips = self.vips.clone();
        let change = if added.len() + gone.len() <= FEW.max(self.held.len() / 8) {
            let mut touched = Touched::default();
            for object in &gone {
                self.index(Step::Remove, object, &mut touched);
            }
            for object in &added {
                self.index(Step::Add, object, &mut touched);
            }
            let hosts = touched.hosts_of_services();
            self.allocate(hosts.into_iter());
            Change::Some(touched)
        } else {
            self.rebuild();
            self.allocate_all();
            Change::Everything
        };
        Update {
            change,
            vips,
            added,
            gone,
        }
    }

    /// Undoes an update, which must be the last one.
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
                    self.index(Step::Remove, object, &mut touched);
                }
                for object in &update.gone {
                    self.index(Step::Add, object, &mut touched);
                }
            }
            Change::Everything => self.rebuild(),
        }
        self.vips = update.vips;
    }

    fn rebuild(&mut self) {
        let mut objects: Vec<_> = self.held.values().map(|(o, _)| Arc::clone(o)).collect();
        objects.sort_by(|a, b| by_age(a, b));
        // WorkloadEntries come first, because entries select them.
        objects.sort_by_key(|o| !matches!(o.spec, Some(Spec::WorkloadEntry(_))));
        let held = std::mem::take(&mut self.held);
        let mut vips = self.vips.take();
        vips.iter_mut().for_each(Vips::erase_all);
        *self = Self {
            held,
            vips,
            updates: self.updates,
            ..Self::empty(&self.domain, &self.root_namespace)
        };
        for object in &objects {
            self.index(Step::Add, object, &mut Touched::default());
        }
    }

    /// Adds an object to every index or removes it from each, and notes what depends on it.
    fn index(&mut self, step: Step, object: &Arc<Object>, touched: &mut Touched) {
        match step {
            Step::Add => self.dependences.add(object, &mut touched.scopes),
            Step::Remove => self.dependences.remove(object, &mut touched.scopes),
        }
        let namespace = &object.meta.namespace;
        match &object.spec {
            Some(Spec::ServiceEntry(spec)) => {
                if spec.workload_selector.is_some() {
                    step.take(&mut self.selecting, namespace, object, |o| o);
                }
                let hosts = match step {
                    Step::Add => self.list(object, spec),
                    Step::Remove => self.unlist(object, spec),
                };
                touched.add(What::Services, object, hosts);
                match step {
                    Step::Add => self.write_down(spec, touched),
                    Step::Remove => self.erase(spec),
                }
            }
            Some(Spec::VirtualService(spec)) => {
                let vs = VirtualService {
                    object: Arc::clone(object),
                };
                if spec.hosts.is_empty() {
                    let key = own_name(object);
                    step.take(&mut self.delegates, &key, &vs, |v| &v.object);
                    self.touch_delegating(&key, touched);
                } else if vs.serves_mesh() {
                    let hosts = self.full_names(object, spec);
                    for host in &hosts {
                        step.take(&mut self.rules, host, &vs, |v| &v.object);
                    }
                    for key in delegates(object, spec) {
                        step.take(&mut self.delegating, &key, object, |o| o);
                    }
                    touched.add(What::Routes, object, hosts);
                }
            }
            Some(Spec::DestinationRule(spec)) => {
                let host = hosts::full_name(&spec.host, namespace, &self.domain);
                step.take(&mut self.destination_rules, &host, object, |o| o);
                touched.add(What::Destinations, object, vec![host]);
            }
            Some(Spec::Sidecar(_)) => {
                step.take(&mut self.sidecars, namespace, object, |o| o);
                self.touch_sidecars(namespace, touched);
            }
            Some(Spec::WorkloadEntry(spec)) => {
                step.take(&mut self.workload_entries, namespace, object, |o| o);
                self.select_anew(object, spec, touched);
            }
            None => {}
        }
    }

    /// Adds an entry under each of its hosts. Returns the hosts.
    fn list(&mut self, object: &Arc<Object>, spec: &ServiceEntry) -> Vec<Arc<str>> {
        let selected = self.selected(object, spec.workload_selector.as_ref());
        let entry = Arc::new(Entry::new(Arc::clone(object), spec, selected.as_deref()));
        let hosts = canonical(spec);
        for host in &hosts {
            Step::Add.take(&mut self.entries, host, &entry, |e| &e.object);
        }
        hosts
    }

    /// Removes an entry from under each of its hosts. Returns the hosts.
    fn unlist(&mut self, object: &Arc<Object>, spec: &ServiceEntry) -> Vec<Arc<str>> {
        let hosts = canonical(spec);
        for host in &hosts {
            remove(&mut self.entries, host, |e| Arc::ptr_eq(&e.object, object));
        }
        hosts
    }

    /// A `WorkloadEntry` was added or removed: the endpoints of entries that select it change.
    fn select_anew(&mut self, object: &Object, spec: &WorkloadEntry, touched: &mut Touched) {
        let here = self.selecting.get(&object.meta.namespace);
        let selecting: Vec<_> = here.into_iter().flatten().cloned().collect();
        for entry in selecting {
            let Some(Spec::ServiceEntry(of)) = &entry.spec else {
                continue;
            };
            let selector = of.workload_selector.as_ref();
            if selector.is_some_and(|s| selects(s, object, spec)) {
                self.unlist(&entry, of);
                let hosts = self.list(&entry, of);
                touched.add(What::Services, &entry, hosts);
            }
        }
    }

    /// The `VirtualService`s that delegate to this one.
    pub(super) fn delegating_to(&self, delegate: &Object) -> impl Iterator<Item = &Arc<Object>> {
        let all = self.delegating.get(&own_name(delegate));
        all.into_iter().flatten()
    }

    /// Touches the routes that delegate to the `VirtualService` of this name.
    pub(super) fn touch_delegating(&self, key: &Named, touched: &mut Touched) {
        for object in self.delegating.get(key).into_iter().flatten() {
            if let Some(Spec::VirtualService(spec)) = &object.spec {
                touched.add(What::Routes, object, self.full_names(object, spec));
            }
        }
    }

    fn touch_sidecars(&self, namespace: &str, touched: &mut Touched) {
        touched.scopes.all |= *namespace == *self.root_namespace;
        touched.scopes.namespaces.insert(namespace.to_owned());
    }

    pub(super) fn full_names(
        &self,
        object: &Object,
        spec: &virtual_service::VirtualService,
    ) -> Vec<Arc<str>> {
        let hosts = spec.hosts.iter();
        hosts
            .map(|h| hosts::full_name(h, &object.meta.namespace, &self.domain))
            .collect()
    }

    /// The `WorkloadEntry`s that an entry selects, of its namespace.
    fn selected(
        &self,
        object: &Object,
        selector: Option<&WorkloadSelector>,
    ) -> Option<Vec<WorkloadEntry>> {
        let selector = selector?;
        let here = self.workload_entries.get(&object.meta.namespace);
        let chosen = here.into_iter().flatten().filter_map(|o| match &o.spec {
            Some(Spec::WorkloadEntry(w)) => selects(selector, o, w).then(|| w.clone()),
            _ => None,
        });
        Some(chosen.collect())
    }
}

/// Whether a selector chooses a `WorkloadEntry`. Labels of the object count as the workload's too.
fn selects(selector: &WorkloadSelector, object: &Object, spec: &WorkloadEntry) -> bool {
    let label = |k| spec.labels.get(k).or_else(|| object.meta.labels.get(k));
    let mut wanted = selector.labels.iter();
    wanted.all(|(k, v)| label(k) == Some(v))
}

/// The hosts of an entry, each once.
pub(super) fn canonical(spec: &ServiceEntry) -> Vec<Arc<str>> {
    let hosts: BTreeSet<_> = spec.hosts.iter().map(|h| hosts::canonical(h)).collect();
    hosts.into_iter().collect()
}

/// The `VirtualService`s that one with hosts delegates to, each once.
fn delegates(object: &Object, spec: &virtual_service::VirtualService) -> BTreeSet<Named> {
    let delegates = spec.http.iter().filter_map(|r| r.delegate.as_ref());
    delegates
        .map(|to| named(to, &object.meta.namespace))
        .collect()
}

/// Removes items from the list of a key, and the list with its last item.
fn remove<K: Ord, T>(map: &mut BTreeMap<K, Vec<T>>, key: &K, is: impl Fn(&T) -> bool) {
    if let Some(list) = map.get_mut(key) {
        list.retain(|item| !is(item));
        if list.is_empty() {
            map.remove(key);
        }
    }
}
