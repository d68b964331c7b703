//! Delegates: routes that a `VirtualService` takes from another one without hosts (istio
//! `pilot/pkg/model/virtualservice.go` `mergeVirtualServicesIfNeeded`).
//!
//! One level only. Owns the merge of fields; `routes` combines the matches.

use super::{Named, Registry, VirtualService};
use crate::istio::fields::Destination;
use crate::istio::virtual_service::{Delegate, HttpRoute};
use crate::istio::{Object, Spec, hosts};
use std::sync::Arc;

impl Registry {
    /// The `VirtualService` that a route of `root` delegates to; `None` if there is none that it may use. The route's
    /// requests are then denied: without the route the host would serve what the rule narrows.
    pub(super) fn delegate(&self, to: &Delegate, root: &VirtualService) -> Option<&VirtualService> {
        let own = &root.object.meta.namespace;
        let key = named(to, own);
        let found = self.delegates.get(&key)?.first()?;
        let namespace = &key.0;
        let export_to = &found.spec().export_to;
        let to_root = |n: &String| n == "*" || n == own || (n == "." && namespace == own);
        (export_to.is_empty() || export_to.iter().any(to_root)).then_some(found)
    }

    /// Why a route cannot use its delegate, for people; `None` if it can.
    pub(super) fn delegate_problem(&self, to: &Delegate, root: &VirtualService) -> Option<String> {
        if self.delegate(to, root).is_some() {
            return None;
        }
        let own = &root.object.meta.namespace;
        let key = named(to, own);
        let name = format!("VirtualService {}/{}", key.0, key.1);
        if self.delegates.contains_key(&key) {
            return Some(format!("{name} is not exported to namespace {own}"));
        }
        let has_hosts = self.held.values().any(|(object, _)| {
            matches!(object.spec, Some(Spec::VirtualService(_))) && own_name(object) == key
        });
        Some(if has_hosts {
            format!("{name} has hosts, so it is no delegate")
        } else {
            format!("there is no {name}")
        })
    }
}

/// Why requests of a route without a usable delegate are denied. It does not say which of the reasons it is, because that
/// depends on objects that the route does not follow.
pub(super) fn unusable(index: usize, to: &Delegate, root: &VirtualService) -> Arc<str> {
    let object = &root.object;
    let (namespace, name) = named(to, &object.meta.namespace);
    format!(
        "spec.http[{index}].delegate of {object} ({}) names VirtualService {namespace}/{name}, which is missing, has \
         hosts or is not exported to the namespace, so it serves nothing",
        object.place()
    )
    .into()
}

pub(super) fn own_name(object: &Object) -> Named {
    (object.meta.namespace.clone(), object.meta.name.clone())
}

/// Which `VirtualService` a route of one of the namespace `own` means.
pub(super) fn named(to: &Delegate, own: &str) -> Named {
    let namespace = match to.namespace.as_str() {
        "" => own,
        namespace => namespace,
    };
    (namespace.to_owned(), to.name.clone())
}

/// A delegate's route. Fields that it leaves unset come from the route of the root `of`, whose namespace completes the
/// hosts in them.
pub(super) fn merged(
    (root, of): (&HttpRoute, &VirtualService),
    delegate: &HttpRoute,
    domain: &str,
) -> HttpRoute {
    let complete = |to: &mut Destination| {
        let host = hosts::full_name(&to.host, &of.object.meta.namespace, domain);
        to.host = host.to_string();
    };
    let mut merged = delegate.clone();
    merged.rewrite = merged.rewrite.or_else(|| root.rewrite.clone());
    merged.timeout = merged.timeout.or(root.timeout);
    merged.retries = merged.retries.or_else(|| root.retries.clone());
    merged.fault = merged.fault.or_else(|| root.fault.clone());
    if merged.mirror.is_none() {
        merged.mirror.clone_from(&root.mirror);
        merged.mirror.iter_mut().for_each(complete);
    }
    merged.mirror_percent = merged.mirror_percent.or(root.mirror_percent);
    let percentage = || root.mirror_percentage.clone();
    merged.mirror_percentage = merged.mirror_percentage.or_else(percentage);
    if merged.mirrors.is_empty() {
        merged.mirrors.clone_from(&root.mirrors);
        let all = merged.mirrors.iter_mut();
        all.filter_map(|m| m.destination.as_mut())
            .for_each(complete);
    }
    merged.cors_policy = merged.cors_policy.or_else(|| root.cors_policy.clone());
    merged.headers = merged.headers.or_else(|| root.headers.clone());
    // A delegate of a delegate is not a route.
    merged.delegate = None;
    merged
}
