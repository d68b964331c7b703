//! Which namespaces and which labels of a workload the rules ask for. A scope leaves out the others, so
//! that more workloads share a policy.
//!
//! Each name has the objects that ask for it, so that one can be added or removed without a look at the others.

use super::touched::Rescoped;
use crate::istio::{Object, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Dependences {
    namespaces: Askers,
    labels: Askers,
    /// By their own namespace, which imports of a Sidecar name.
    homes: Askers,
}

/// The objects that ask for each name, by their place in memory.
#[derive(Clone, Debug, Default)]
struct Askers(BTreeMap<String, BTreeMap<usize, Arc<Object>>>);

impl Askers {
    /// Returns whether it is the first.
    fn add(&mut self, name: &str, object: &Arc<Object>) -> bool {
        let place = Arc::as_ptr(object).addr();
        if let Some(held) = self.0.get_mut(name) {
            held.insert(place, Arc::clone(object));
            return false;
        }
        let first = BTreeMap::from([(place, Arc::clone(object))]);
        self.0.insert(name.to_owned(), first);
        true
    }

    /// Returns whether it was the last.
    fn remove(&mut self, name: &str, object: &Arc<Object>) -> bool {
        let Some(held) = self.0.get_mut(name) else {
            return false;
        };
        held.remove(&Arc::as_ptr(object).addr());
        held.is_empty() && self.0.remove(name).is_some()
    }

    fn of(&self, name: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.0.get(name).into_iter().flat_map(BTreeMap::values)
    }
}

impl Dependences {
    /// Whether a rule is for this namespace.
    pub(super) fn on_namespace(&self, namespace: &str) -> bool {
        self.namespaces.0.contains_key(namespace)
    }

    /// Whether a rule asks for this label.
    pub(super) fn on_label(&self, label: &str) -> bool {
        self.labels.0.contains_key(label)
    }

    /// The objects that ask for this namespace.
    pub(super) fn for_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.namespaces.of(namespace)
    }

    /// The objects that ask for this label.
    pub(super) fn for_label(&self, label: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.labels.of(label)
    }

    /// The objects of this namespace.
    pub(super) fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &Arc<Object>> {
        self.homes.of(namespace)
    }

    /// Adds what an object depends on.
    pub(super) fn add(&mut self, object: &Arc<Object>, rescoped: &mut Rescoped) {
        self.change(object, rescoped, Askers::add);
    }

    /// Removes what an object depended on.
    pub(super) fn remove(&mut self, object: &Arc<Object>, rescoped: &mut Rescoped) {
        self.change(object, rescoped, Askers::remove);
    }

    /// Goes through the names that an object asks for. `step` returns whether that changes the scopes.
    fn change(
        &mut self,
        object: &Arc<Object>,
        rescoped: &mut Rescoped,
        step: fn(&mut Askers, &str, &Arc<Object>) -> bool,
    ) {
        let asked = Asked::of(object);
        let namespaces = asked.namespaces.into_iter();
        let changed = namespaces.filter(|n| step(&mut self.namespaces, n, object));
        rescoped.namespaces.extend(changed.map(str::to_owned));
        let labels = asked.labels.into_iter();
        let changed = labels.filter(|l| step(&mut self.labels, l, object));
        rescoped.labels.extend(changed.map(str::to_owned));
        step(&mut self.homes, &object.meta.namespace, object);
    }
}

/// What one object depends on.
#[derive(Default)]
struct Asked<'a> {
    namespaces: BTreeSet<&'a str>,
    labels: BTreeSet<&'a str>,
}

impl<'a> Asked<'a> {
    fn of(object: &'a Object) -> Self {
        let mut asked = Self::default();
        let own = object.meta.namespace.as_str();
        match &object.spec {
            Some(Spec::ServiceEntry(spec)) => asked.export_to(&spec.export_to, own),
            Some(Spec::VirtualService(spec)) => {
                asked.export_to(&spec.export_to, own);
                let http = spec.http.iter().flat_map(|r| &r.r#match);
                let http = http.map(|m| (&m.source_labels, &m.source_namespace));
                let tls = spec.tls.iter().flat_map(|r| &r.r#match);
                let tls = tls.map(|m| (&m.source_labels, &m.source_namespace));
                let tcp = spec.tcp.iter().flat_map(|r| &r.r#match);
                let tcp = tcp.map(|m| (&m.source_labels, &m.source_namespace));
                for (labels, namespace) in http.chain(tls).chain(tcp) {
                    asked.labels.extend(labels.keys().map(String::as_str));
                    if !namespace.is_empty() {
                        asked.namespaces.insert(namespace);
                    }
                }
            }
            Some(Spec::DestinationRule(spec)) => {
                asked.export_to(&spec.export_to, own);
                // Rules of the client's own namespace come first.
                asked.namespaces.insert(own);
                let selector = spec.workload_selector.iter();
                let labels = selector.flat_map(|s| s.match_labels.keys());
                asked.labels.extend(labels.map(String::as_str));
            }
            Some(Spec::Sidecar(_) | Spec::WorkloadEntry(_)) | None => {}
        }
        asked
    }

    fn export_to(&mut self, names: &'a [String], own: &'a str) {
        if names.iter().all(|n| n != "*") {
            let full = names.iter().map(|n| if n == "." { own } else { n });
            self.namespaces.extend(full.filter(|n| *n != "~"));
        }
    }
}
