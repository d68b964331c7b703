//! Delegates: routes that a `VirtualService` takes from another one without hosts (istio
//! `pilot/pkg/model/virtualservice.go` `mergeVirtualServicesIfNeeded`).
//!
//! One level only. Owns the merge of fields; `routes` combines the matches.

use super::{Named, Registry, VirtualService};
use crate::istio::virtual_service::{Delegate, HttpRoute};

impl Registry {
    /// The `VirtualService` that a route of `root` delegates to; `None` if there is none that it may use. The route is
    /// then left out, as in Istio.
    pub(super) fn delegate(&self, to: &Delegate, root: &VirtualService) -> Option<&VirtualService> {
        let own = &root.object.meta.namespace;
        let key = named(to, own);
        let found = self.delegates.get(&key)?.first()?;
        let namespace = &key.0;
        let export_to = &found.spec().export_to;
        let to_root = |n: &String| n == "*" || n == own || (n == "." && namespace == own);
        (export_to.is_empty() || export_to.iter().any(to_root)).then_some(found)
    }
}

/// Which `VirtualService` a route of one of the namespace `own` means.
pub(super) fn named(to: &Delegate, own: &str) -> Named {
    let namespace = match to.namespace.as_str() {
        "" => own,
        namespace => namespace,
    };
    (namespace.to_owned(), to.name.clone())
}

/// A delegate's route. Fields that it leaves unset come from the root's route.
pub(super) fn merged(root: &HttpRoute, delegate: &HttpRoute) -> HttpRoute {
    let mut merged = delegate.clone();
    merged.rewrite = merged.rewrite.or_else(|| root.rewrite.clone());
    merged.timeout = merged.timeout.or(root.timeout);
    merged.retries = merged.retries.or_else(|| root.retries.clone());
    merged.fault = merged.fault.or_else(|| root.fault.clone());
    merged.mirror = merged.mirror.or_else(|| root.mirror.clone());
    merged.cors_policy = merged.cors_policy.or_else(|| root.cors_policy.clone());
    merged.headers = merged.headers.or_else(|| root.headers.clone());
    // A delegate of a delegate is not a route.
    merged.delegate = None;
    merged
}
