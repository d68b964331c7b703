//! What one workload may see: its Sidecar's imports, what is exported to its namespace, and the
//! labels that rules ask for.
//!
//! Workloads with an equal scope see the same and share a policy. Does not know the services, nor how
//! a Sidecar is chosen.

use crate::istio::destination_rule::DestinationRule;
use crate::istio::hosts;
use crate::traffic::ClusterId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A workload, whose flows are judged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// Namespace.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Service account. No egress rule of Istio uses it.
    pub service_account: String,
    /// Whether its unlisted flows pass and are recorded; `None`: as for all workloads. No rule of Istio sets it.
    pub audit: Option<bool>,
}

impl Default for Workload {
    /// No labels, in the namespace of objects that name none.
    fn default() -> Self {
        Self {
            namespace: "default".to_owned(),
            labels: BTreeMap::new(),
            service_account: String::new(),
            audit: None,
        }
    }
}

/// Everything about a workload that a rule can depend on, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scope {
    /// Its namespace, if some rule is for that namespace; else empty.
    pub(super) namespace: String,
    /// Those of its labels that some rule asks for.
    pub(super) labels: BTreeMap<String, String>,
    /// Of its Sidecar; `None` without one.
    pub(super) imports: Option<Vec<Import>>,
    /// `outboundTrafficPolicy` of its Sidecar, where it has one.
    pub(super) outbound: Option<Outbound>,
    /// Sees everything, wherever it is exported to.
    pub(super) all: bool,
}

/// What happens to flows that no rule lists.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outbound {
    /// They are denied.
    RegistryOnly,
    /// They reach what was dialled.
    AllowAny,
    /// TCP goes to this destination instead (`egressProxy`).
    EgressProxy(ClusterId),
}

/// One entry of `egress[].hosts`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    /// `None` means any.
    pub(super) namespace: Option<String>,
    /// Host or wildcard, in canonical form.
    pub(super) host: Arc<str>,
    /// Removes hosts that other entries import.
    pub(super) excludes: bool,
    /// Port of the listener, which then imports that port only.
    pub(super) port: Option<u16>,
}

impl Import {
    /// From `namespace/host` as a Sidecar of the namespace `own` has it, for all ports. `None` for
    /// `~/*`, which imports nothing.
    pub(super) fn new(host: &str, own: &str) -> Option<Self> {
        let (namespace, host) = host.split_once('/').unwrap_or((".", host));
        if namespace == "~" && host == "*" {
            return None;
        }
        let bare = match namespace.trim_start_matches('~') {
            "" | "*" => None,
            "." => Some(own.to_owned()),
            name => Some(name.to_owned()),
        };
        Some(Self {
            namespace: bare,
            host: hosts::canonical(host),
            // `~/*` imports nothing. Any other entry that begins with `~` removes hosts.
            excludes: namespace.starts_with('~'),
            port: None,
        })
    }

    /// Whether it is about the service of this host in this namespace.
    pub(super) fn covers(&self, namespace: &str, host: &str) -> bool {
        self.namespace.as_deref().is_none_or(|n| n == namespace) && hosts::covers(&self.host, host)
    }
}

/// Which ports of a service are imported.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Imported {
    /// None: not imported.
    No,
    /// These.
    Ports(BTreeSet<u16>),
    /// All.
    Whole,
}

impl Scope {
    /// The scope of no single workload: every object counts. For checks of the rules themselves.
    pub fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Whether the two have the same imports.
    pub fn imports_as(&self, other: &Self) -> bool {
        self.imports == other.imports && self.all == other.all
    }

    /// Whether it has imports, and so does not import everything.
    pub const fn has_imports(&self) -> bool {
        self.imports.is_some()
    }

    /// The namespaces whose objects the two import differently; `None` if that may be any namespace.
    pub(super) fn imports_apart<'a>(&'a self, other: &'a Self) -> Option<BTreeSet<&'a str>> {
        if self.imports_as(other) {
            return Some(BTreeSet::new());
        }
        let (Some(one), Some(other)) = (&self.imports, &other.imports) else {
            return None;
        };
        let only = |these: &'a [Import], those: &'a [Import]| {
            these.iter().filter(move |import| !those.contains(import))
        };
        let differing = only(one, other).chain(only(other, one));
        differing
            .map(|import| import.namespace.as_deref())
            .collect()
    }

    /// Whether flows that no rule lists are let out, where the Sidecar says so.
    pub fn allow_any(&self) -> Option<bool> {
        let outbound = self.outbound.as_ref()?;
        Some(*outbound != Outbound::RegistryOnly)
    }

    /// Where they go instead of what was dialled, if the Sidecar says so.
    pub const fn egress_proxy(&self) -> Option<&ClusterId> {
        match &self.outbound {
            Some(Outbound::EgressProxy(to)) => Some(to),
            Some(Outbound::RegistryOnly | Outbound::AllowAny) | None => None,
        }
    }

    /// Whether an object of namespace `of` with this `exportTo` is visible.
    pub fn sees(&self, export_to: &[String], of: &str) -> bool {
        let to_us = |n: &String| match n.as_str() {
            "*" => true,
            "." => self.namespace == of,
            name => self.namespace == name,
        };
        self.all || export_to.is_empty() || export_to.iter().any(to_us)
    }

    /// What is imported of a service.
    pub fn imports(&self, namespace: &str, host: &str) -> Imported {
        let Some(imports) = &self.imports else {
            return Imported::Whole;
        };
        let mut ports = BTreeSet::new();
        let covering = |import: &&Import| import.covers(namespace, host);
        if imports.iter().filter(covering).any(|i| i.excludes) {
            return Imported::No;
        }
        for import in imports {
            if covering(&import) {
                match import.port {
                    None => return Imported::Whole,
                    Some(port) => ports.insert(port),
                };
            }
        }
        if ports.is_empty() {
            Imported::No
        } else {
            Imported::Ports(ports)
        }
    }

    /// Whether a `VirtualService` for these hosts is imported. They are full names, as those of services are.
    pub(super) fn imports_rule(&self, namespace: &str, of: &[Arc<str>]) -> bool {
        let Some(imports) = &self.imports else {
            return true;
        };
        let excluded = |host: &Arc<str>| {
            let mut excluding = imports.iter().filter(|i| i.excludes);
            excluding.any(|i| i.covers(namespace, host))
        };
        if !of.is_empty() && of.iter().all(excluded) {
            return false;
        }
        let overlaps = |import: &Import| {
            let covers = |host: &Arc<str>| {
                hosts::covers(&import.host, host) || hosts::covers(host, &import.host)
            };
            !import.excludes
                && import.namespace.as_deref().is_none_or(|n| n == namespace)
                && of.iter().any(covers)
        };
        imports.iter().any(overlaps)
    }

    /// Whether a match is for this client (`sourceLabels`, `sourceNamespace`).
    pub fn is_source(&self, labels: &BTreeMap<String, String>, namespace: &str) -> bool {
        let has = |(k, v): (&String, &String)| self.labels.get(k) == Some(v);
        self.all
            || ((namespace.is_empty() || self.namespace == namespace) && labels.iter().all(has))
    }

    /// Whether a `DestinationRule` of namespace `of` is for this client (`workloadSelector`).
    pub fn selected_by(&self, rule: &DestinationRule, of: &str) -> bool {
        let selector = rule.workload_selector.as_ref();
        let labels = selector.map(|s| &s.match_labels).filter(|l| !l.is_empty());
        labels.is_none_or(|labels| self.is_source(labels, of))
    }

    /// Whether the workload is of this namespace, which an object must have.
    pub(super) fn is_in(&self, namespace: &str) -> bool {
        self.all || self.namespace == namespace
    }

    /// The namespace, where it matters.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}
