//! What two scopes may see differently, so that the view of one can be made from the view of the other.

use super::Registry;
use super::delegate::own_name;
use super::scope::Scope;
use super::touched::{Touched, What};
use super::update::canonical;
use crate::istio::{Object, Spec, hosts};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Up to this many different objects, two scopes always count as near.
const FEW: usize = 16;

impl Registry {
    /// Whether two scopes are near: they see almost the same objects.
    pub fn are_near(&self, one: &Scope, other: &Scope) -> bool {
        let Some(namespaces) = one.imports_apart(other) else {
            return false;
        };
        let namespaces = namespaces.into_iter();
        let objects = namespaces.flat_map(|n| self.dependences.of_namespace(n));
        objects.count() <= FEW.max(self.entries.len() / 4)
    }

    /// The objects that two scopes may see differently: those that ask for a namespace or a label that the two do not
    /// share, and those of namespaces that they import differently. The two must be [near](Self::are_near).
    pub(super) fn apart(&self, one: &Scope, other: &Scope) -> Touched {
        let mut touched = Touched::default();
        let asks = &self.dependences;
        for namespace in one.imports_apart(other).into_iter().flatten() {
            for object in asks.of_namespace(namespace) {
                self.touch(object, &mut touched);
            }
        }
        if one.namespace != other.namespace {
            for namespace in [&one.namespace, &other.namespace] {
                for object in asks.for_namespace(namespace) {
                    self.touch(object, &mut touched);
                }
            }
        }
        let labels: BTreeSet<&String> = one.labels.keys().chain(other.labels.keys()).collect();
        for label in labels {
            if one.labels.get(label) != other.labels.get(label) {
                for object in asks.for_label(label) {
                    self.touch(object, &mut touched);
                }
            }
        }
        touched
    }

    /// Touches everything that is made from an object.
    fn touch(&self, object: &Arc<Object>, touched: &mut Touched) {
        match &object.spec {
            Some(Spec::ServiceEntry(spec)) => {
                touched.add(What::Services, object, canonical(spec));
            }
            Some(Spec::VirtualService(spec)) if spec.hosts.is_empty() => {
                self.touch_delegating(&own_name(object), touched);
            }
            Some(Spec::VirtualService(spec)) => {
                touched.add(What::Routes, object, self.full_names(object, spec));
            }
            Some(Spec::DestinationRule(spec)) => {
                let host = hosts::full_name(&spec.host, &object.meta.namespace, &self.domain);
                touched.add(What::Destinations, object, vec![host]);
            }
            Some(Spec::Sidecar(_) | Spec::WorkloadEntry(_)) | None => {}
        }
    }
}
