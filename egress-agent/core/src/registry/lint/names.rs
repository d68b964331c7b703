//! Findings about hosts: wildcards over names of many owners, and Sidecar imports that no entry lists.

use super::look::Lint;
use crate::istio::sidecar::Sidecar;
use crate::istio::{Object, hosts};
use crate::registry::scope::Import;
use crate::registry::services::{Entry, Service};
use std::sync::Arc;

/// Domains of one owner under which many others have names: the private section of the Public Suffix List has suffixes
/// below each.
const MANY_OWNERS: [&str; 5] = [
    "amazonaws.com",
    "amazonaws.com.cn",
    "azure.com",
    "core.windows.net",
    "windows.net",
];

impl Lint<'_> {
    pub(super) fn public_suffix(&mut self, service: &Service, entry: &Arc<Entry>) {
        let Some(suffix) = service.host.strip_prefix('*') else {
            return;
        };
        let suffix = suffix.strip_prefix('.').unwrap_or(suffix);
        // A domain on the Public Suffix List (publicsuffix.org) is its own suffix. A top-level domain needs no list.
        let known = psl::suffix(suffix.as_bytes());
        if !suffix.contains('.')
            || MANY_OWNERS.contains(&suffix)
            || known.is_some_and(|s| s.is_known() && s == suffix.as_bytes())
        {
            let text = format!(
                "{} covers names of many owners: anyone can register one",
                service.host
            );
            self.warn(&entry.object, &[("hosts", None)], text);
        }
    }

    /// Imports of a Sidecar that no entry lists.
    pub(super) fn sidecar(&mut self, object: &Arc<Object>, spec: &Sidecar) {
        for (n, listener) in spec.egress.iter().enumerate() {
            for (m, host) in listener.hosts.iter().enumerate() {
                if let Some(text) = self.unlisted_import(object, host) {
                    let at = [("egress", Some(n)), ("hosts", Some(m))];
                    self.warn(object, &at, text);
                }
            }
        }
    }

    fn unlisted_import(&self, object: &Object, host: &str) -> Option<String> {
        let import = Import::new(host, &object.meta.namespace)?;
        // Most Sidecars import everything of their own namespace, of the root namespace or of any namespace, whether
        // there is an entry yet or not.
        let usual = [&*object.meta.namespace, &*self.registry.root_namespace];
        let whole = import.namespace.as_deref();
        if &*import.host == "*" && whole.is_none_or(|n| usual.contains(&n)) {
            return None;
        }
        let anywhere = Import {
            namespace: None,
            ..import.clone()
        };
        let entries = &self.registry.entries;
        let exact = entries.get_key_value(&*import.host);
        let is_wildcard = hosts::is_wildcard(&import.host);
        let lists = |import: &Import| {
            let wild = is_wildcard.then_some(entries).into_iter().flatten();
            let mut candidates = exact.into_iter().filter(|_| !is_wildcard).chain(wild);
            candidates.find_map(|(host, entries)| {
                let mut entries = entries.iter();
                entries.find(|e| import.covers(&e.object.meta.namespace, host))
            })
        };
        if lists(&import).is_some() {
            return None;
        }
        let effect = if import.excludes {
            "this excludes nothing"
        } else {
            "this imports nothing"
        };
        let what = match &*import.host {
            "*" => "any host",
            host => host,
        };
        Some(match (import.namespace.as_deref(), lists(&anywhere)) {
            (Some(namespace), Some(other)) if what != "any host" => format!(
                "no ServiceEntry of namespace {namespace} lists {what}: {effect} ({} does)",
                other.object
            ),
            (Some(namespace), _) => {
                format!("no ServiceEntry of namespace {namespace} lists {what}: {effect}")
            }
            (None, _) => format!("no ServiceEntry lists {what}: {effect}"),
        })
    }
}
