//! What an update of the rules touched, and which workloads it concerns.
//!
//! Lists objects, so that each view can skip those that it does not see. Does not look at services.

use super::scope::{Scope, Workload};
use crate::istio::{Object, Spec};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What an update touched.
#[derive(Clone, Debug, Default)]
pub struct Touched {
    pub(super) parts: Vec<Part>,
    /// Workloads whose scope may have changed.
    pub scopes: Rescoped,
}

/// What is made from an object and must be rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The services of these hosts.
    Services,
    /// The routes of these hosts, which may be wildcards.
    Routes,
    /// The destinations of this host or wildcard, wherever routes lead to one.
    Destinations,
}

/// One object that was added, removed or changed in part, and the hosts that it is about, as full names.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) what: What,
    pub(super) object: Arc<Object>,
    pub(super) hosts: Vec<Arc<str>>,
}

impl Part {
    /// Whether a scope sees the object at all.
    pub(super) fn is_seen(&self, scope: &Scope) -> bool {
        let namespace = &self.object.meta.namespace;
        match &self.object.spec {
            Some(Spec::ServiceEntry(spec)) => scope.sees(&spec.export_to, namespace),
            Some(Spec::VirtualService(spec)) => {
                scope.sees(&spec.export_to, namespace) && scope.imports_rule(namespace, &self.hosts)
            }
            Some(Spec::DestinationRule(spec)) => {
                scope.sees(&spec.export_to, namespace) && scope.selected_by(spec, namespace)
            }
            Some(Spec::Sidecar(_) | Spec::WorkloadEntry(_)) | None => false,
        }
    }
}

impl Touched {
    /// Hosts whose services were touched, each once.
    pub(super) fn hosts_of_services(&self) -> BTreeSet<Arc<str>> {
        let parts = self.parts.iter().filter(|p| p.what == What::Services);
        parts.flat_map(|p| &p.hosts).cloned().collect()
    }

    pub(super) fn add(&mut self, what: What, object: &Arc<Object>, hosts: Vec<Arc<str>>) {
        self.parts.push(Part {
            what,
            object: Arc::clone(object),
            hosts,
        });
    }
}

/// Workloads whose scope may have changed in an update.
#[derive(Clone, Debug, Default)]
pub struct Rescoped {
    /// Every workload.
    pub(super) all: bool,
    /// Workloads of these namespaces.
    pub(super) namespaces: BTreeSet<String>,
    /// Workloads with one of these labels.
    pub(super) labels: BTreeSet<String>,
}

impl Rescoped {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        !self.all && self.namespaces.is_empty() && self.labels.is_empty()
    }

    /// Whether a workload is one of them.
    pub fn concerns(&self, workload: &Workload) -> bool {
        self.all
            || self.namespaces.contains(&workload.namespace)
            || self.labels.iter().any(|l| workload.labels.contains_key(l))
    }
}
