//! The registry: every service that rules list and the `VirtualService`s for them.
//!
//! Made from resources that passed validation, by pure functions; objects that could not be
//! decoded are no part of it. Knows no address that DNS gave.

pub mod hosts;
pub mod not_done;
pub mod routes;
pub mod services;
#[cfg(test)]
mod tests;
pub mod view;

use crate::istio::{Object, Spec, virtual_service};
use services::{Entry, Service};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The gateway name that means every workload.
const MESH: &str = "mesh";

/// A `VirtualService`.
#[derive(Clone, Debug)]
pub struct VirtualService {
    /// The object; its spec is a `VirtualService`.
    pub object: Arc<Object>,
}

impl VirtualService {
    /// The resource itself.
    pub fn spec(&self) -> &virtual_service::VirtualService {
        static NONE: std::sync::OnceLock<virtual_service::VirtualService> =
            std::sync::OnceLock::new();
        match &self.object.spec {
            Some(Spec::VirtualService(spec)) => spec,
            _ => NONE.get_or_init(virtual_service::VirtualService::default),
        }
    }

    /// Whether it is for workloads and not only for gateways; a match's own list comes first.
    pub fn for_mesh(&self, of_match: &[String]) -> bool {
        let own = &self.spec().gateways;
        let gateways = if of_match.is_empty() { own } else { of_match };
        gateways.is_empty() || gateways.iter().any(|g| g == MESH)
    }

    fn serves_mesh(&self) -> bool {
        let spec = self.spec();
        let http = spec
            .http
            .iter()
            .flat_map(|r| &r.r#match)
            .map(|m| &m.gateways);
        let tls = spec
            .tls
            .iter()
            .flat_map(|r| &r.r#match)
            .map(|m| &m.gateways);
        self.for_mesh(&[]) || http.chain(tls).any(|g| !g.is_empty() && self.for_mesh(g))
    }
}

/// Every service and every rule about one.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// By host in canonical form.
    pub services: BTreeMap<Arc<str>, Arc<Service>>,
    /// `VirtualService`s by host in canonical form, oldest first.
    rules: BTreeMap<Arc<str>, Vec<VirtualService>>,
    /// Domain of short names.
    pub domain: Arc<str>,
}

impl Registry {
    /// From resources, whatever their order. `domain` completes short names; `cluster.local` as a
    /// rule.
    pub fn new(objects: &[Arc<Object>], domain: &str) -> Self {
        let mut objects: Vec<_> = objects.iter().collect();
        // Istio's age rule: creation time, then name and namespace (`sortConfigByCreationTime`);
        // files without a time are oldest. The rest only makes the order a total one.
        objects.sort_by_key(|o| {
            let m = &o.meta;
            (
                &m.creation_timestamp,
                &m.name,
                &m.namespace,
                &o.source,
                o.document,
                o.line,
            )
        });
        let mut entries: BTreeMap<Arc<str>, Vec<Arc<Entry>>> = BTreeMap::new();
        let mut rules: BTreeMap<Arc<str>, Vec<VirtualService>> = BTreeMap::new();
        for object in objects {
            match &object.spec {
                Some(Spec::ServiceEntry(spec)) => {
                    let entry = Arc::new(Entry::new(Arc::clone(object), spec));
                    for host in &spec.hosts {
                        let same = entries.entry(hosts::canonical(host)).or_default();
                        // A host that is listed twice in one entry is one.
                        if !same.iter().any(|e| Arc::ptr_eq(e, &entry)) {
                            same.push(Arc::clone(&entry));
                        }
                    }
                }
                Some(Spec::VirtualService(spec)) => {
                    let vs = VirtualService {
                        object: Arc::clone(object),
                    };
                    if !vs.serves_mesh() {
                        continue;
                    }
                    for host in &spec.hosts {
                        let host = hosts::full_name(host, &object.meta.namespace, domain);
                        rules.entry(host).or_default().push(vs.clone());
                    }
                }
                Some(Spec::DestinationRule(_) | Spec::Sidecar(_) | Spec::WorkloadEntry(_))
                | None => {}
            }
        }
        let service = |(host, all)| (Arc::clone(&host), Arc::new(Service::new(host, all)));
        Self {
            services: entries.into_iter().map(service).collect(),
            rules,
            domain: domain.into(),
        }
    }

    /// The `VirtualService` whose http routes are in force for a host: the oldest one that names
    /// it, else the oldest of the most specific wildcard. They are not merged.
    pub fn http_rules(&self, host: &str) -> Option<&VirtualService> {
        self.rules_for(host).find(|vs| !vs.spec().http.is_empty())
    }

    /// The `VirtualService`s with tls routes for a host.
    pub fn tls_rules(&self, host: &str) -> impl Iterator<Item = &VirtualService> {
        self.rules_for(host).filter(|vs| !vs.spec().tls.is_empty())
    }

    /// Every `VirtualService` for a host, the most specific first, each specificity by age.
    fn rules_for(&self, host: &str) -> impl Iterator<Item = &VirtualService> {
        self.patterns(host)
            .filter_map(|p| self.rules.get(p.as_str()))
            .flatten()
    }

    /// The host itself and every wildcard over it, longest first.
    fn patterns(&self, host: &str) -> impl Iterator<Item = String> + use<> {
        let suffix = host.strip_prefix('*').unwrap_or(host).to_owned();
        let itself = host.to_owned();
        let any = self
            .rules
            .keys()
            .next()
            .is_some_and(|k| hosts::is_wildcard(k));
        let cut = move |at: usize| suffix.get(at..).map(|s| format!("*{s}"));
        let wildcards = (0..=host.len()).filter(move |_| any).filter_map(cut);
        let first = itself.clone();
        std::iter::once(first).chain(wildcards.filter(move |p| *p != itself))
    }
}
