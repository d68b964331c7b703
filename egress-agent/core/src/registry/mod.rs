//! The registry: every service that rules list and the `VirtualService`s for them.
//!
//! Pure functions make it from resources that passed validation; objects that cannot be decoded are not in it. A
//! changed object changes only its own part of it. Knows no DNS answers.

mod allocate;
mod apart;
#[cfg(test)]
mod choice_tests;
mod delegate;
#[cfg(test)]
mod delegate_tests;
mod dependences;
mod destination_policy;
#[cfg(test)]
mod destination_policy_tests;
pub(crate) mod l4;
pub mod lint;
pub mod not_done;
pub mod plan;
pub(crate) mod routes;
pub mod scope;
#[cfg(test)]
mod scope_tests;
pub mod services;
mod sidecars;
mod target;
#[cfg(test)]
mod test_text;
#[cfg(test)]
mod tests;
pub mod touched;
pub mod update;
pub mod view;
mod vips;
mod virtual_service;

use crate::istio::Object;
use crate::istio::hosts;
use dependences::Dependences;
use scope::Scope;
use services::Entry;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use vips::Vips;
pub use virtual_service::VirtualService;

/// Istio's age rule: creation time, then name and namespace (`sortConfigByCreationTime`); files without a time are
/// oldest. The other fields only make the order total.
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

/// Namespace and name.
type Named = (String, String);

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
    /// `VirtualService`s without hosts, by namespace and name, oldest first.
    delegates: BTreeMap<Named, Vec<VirtualService>>,
    /// `VirtualService`s with hosts, by each `VirtualService` that they delegate to.
    delegating: BTreeMap<Named, Vec<Arc<Object>>>,
    /// `DestinationRule`s by host in canonical form, oldest first.
    destination_rules: BTreeMap<Arc<str>, Vec<Arc<Object>>>,
    /// By namespace, oldest first.
    sidecars: BTreeMap<String, Vec<Arc<Object>>>,
    /// By namespace, oldest first.
    workload_entries: BTreeMap<String, Vec<Arc<Object>>>,
    /// `ServiceEntry`s that select `WorkloadEntry`s, by namespace.
    selecting: BTreeMap<String, Vec<Arc<Object>>>,
    dependences: Dependences,
    /// Addresses of hosts without any, if the agent gives them some.
    vips: Option<Vips>,
    /// Domain of short names.
    pub domain: Arc<str>,
    /// Namespace whose Sidecar is for every namespace.
    pub root_namespace: Arc<str>,
}

impl Registry {
    /// A registry without objects. `domain` completes short names and is usually `cluster.local`; `root_namespace` is
    /// usually `istio-system`.
    pub fn empty(domain: &str, root_namespace: &str) -> Self {
        Self {
            domain: domain.into(),
            root_namespace: root_namespace.into(),
            ..Self::default()
        }
    }

    /// The same registry, which gives addresses to hosts that share a port with another (`dns.intercept: auto`).
    #[must_use]
    pub fn allocating(self) -> Self {
        Self {
            vips: Some(Vips::default()),
            ..self
        }
    }

    /// From resources in any order, with the usual root namespace.
    pub fn new(objects: &[Arc<Object>], domain: &str) -> Self {
        let mut new = Self::empty(domain, "istio-system");
        let _ = new.update(objects);
        new
    }

    /// The `VirtualService`s that are visible and in force for a host: the most specific first, and the oldest first
    /// among equally specific ones.
    pub(crate) fn rules_for(
        &self,
        host: &str,
        scope: &Scope,
    ) -> impl Iterator<Item = &VirtualService> {
        let visible = |vs: &&VirtualService| {
            let (spec, namespace) = (vs.spec(), &vs.object.meta.namespace);
            let imported = || scope.imports_rule(namespace, &self.full_names(&vs.object, spec));
            scope.sees(&spec.export_to, namespace) && (!scope.has_imports() || imported())
        };
        let mut wildcards = self.rules.range::<str, _>(hosts::WILDCARDS);
        let has_wildcards = wildcards.next().is_some();
        hosts::patterns(host)
            .take(if has_wildcards { usize::MAX } else { 1 })
            .filter_map(|p| self.rules.get(&*p))
            .flatten()
            .filter(visible)
    }
}
