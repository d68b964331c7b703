//! What one workload may see: its Sidecar's imports, what is exported to its namespace, and the
//! labels that rules ask for.
//!
//! Owns Sidecar selection (istio `pilot/pkg/model/push_context.go` `getSidecarScope`). Workloads
//! with an equal scope see the same and share a policy. Does not know the services.

use super::not_done::table::{LISTENER, OUTBOUND, serves_nothing};
use super::{Registry, hosts};
use crate::istio::destination_rule::DestinationRule;
use crate::istio::sidecar::{IstioEgressListener, OutboundTrafficPolicyMode, Sidecar};
use crate::istio::{Object, Spec};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Whose flows are judged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Workload {
    /// Namespace.
    pub namespace: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Service account; no rule of Istio's for egress looks at it.
    pub service_account: String,
    /// Whether what no rule lists is let pass to it and recorded; `None`: as it is for all. No rule
    /// of Istio's says it.
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
    /// Its namespace, if some rule is for that one; else empty.
    namespace: String,
    /// Those of its labels that some rule asks for.
    labels: BTreeMap<String, String>,
    /// Of its Sidecar; `None` without one.
    imports: Option<Vec<Import>>,
    /// `outboundTrafficPolicy` of its Sidecar, where it has one.
    allow_any: Option<bool>,
    /// Sees everything, whoever it is exported to.
    all: bool,
}

/// One entry of `egress[].hosts`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Import {
    /// `None` means any.
    pub(super) namespace: Option<String>,
    /// Host or wildcard, in canonical form.
    pub(super) host: Arc<str>,
    /// Takes away from what the others import.
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
            // `~/*` imports nothing; any other entry that begins so takes hosts away again.
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
    /// Of nobody in particular: every object counts. For checks of the rules themselves.
    pub fn everything() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// `outboundTrafficPolicy`, where the Sidecar says so.
    pub const fn allow_any(&self) -> Option<bool> {
        self.allow_any
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

    /// Whether a `VirtualService` for these hosts is imported.
    pub fn imports_rule(&self, namespace: &str, of: &[String]) -> bool {
        let excluded = |host: &String| {
            let host = hosts::canonical(host);
            let imports = self.imports.iter().flatten();
            imports
                .filter(|i| i.excludes)
                .any(|i| i.covers(namespace, &host))
        };
        if !of.is_empty() && of.iter().all(excluded) {
            return false;
        }
        let overlaps = |import: &Import| {
            !import.excludes
                && import.namespace.as_deref().is_none_or(|n| n == namespace)
                && of.iter().any(|host| {
                    let host = hosts::canonical(host);
                    hosts::covers(&import.host, &host) || hosts::covers(&host, &import.host)
                })
        };
        self.imports
            .as_ref()
            .is_none_or(|all| all.iter().any(overlaps))
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

    /// The namespace, where it matters.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }
}

/// What rules of the registry depend on, gathered from all objects.
#[derive(Clone, Debug, Default)]
pub(super) struct Dependences {
    namespaces: BTreeSet<String>,
    labels: BTreeSet<String>,
}

impl Dependences {
    /// Adds what an object depends on. Returns whether it depends on anything.
    pub(super) fn add(&mut self, object: &Object) -> bool {
        let own = &object.meta.namespace;
        let before = (self.namespaces.len(), self.labels.len());
        let mut some = false;
        let mut export_to = |names: &[String], set: &mut BTreeSet<String>| {
            let narrow = !names.is_empty() && names.iter().all(|n| n != "*");
            if narrow {
                some = true;
                let full = names
                    .iter()
                    .map(|n| if n == "." { own.clone() } else { n.clone() });
                set.extend(full.filter(|n| n != "~"));
            }
        };
        match &object.spec {
            Some(Spec::ServiceEntry(spec)) => export_to(&spec.export_to, &mut self.namespaces),
            Some(Spec::VirtualService(spec)) => {
                export_to(&spec.export_to, &mut self.namespaces);
                let http = spec.http.iter().flat_map(|r| &r.r#match);
                let http = http.map(|m| (&m.source_labels, &m.source_namespace));
                let tls = spec.tls.iter().flat_map(|r| &r.r#match);
                let tls = tls.map(|m| (&m.source_labels, &m.source_namespace));
                let tcp = spec.tcp.iter().flat_map(|r| &r.r#match);
                let tcp = tcp.map(|m| (&m.source_labels, &m.source_namespace));
                for (labels, namespace) in http.chain(tls).chain(tcp) {
                    some |= !labels.is_empty() || !namespace.is_empty();
                    self.labels.extend(labels.keys().cloned());
                    self.namespaces
                        .extend((!namespace.is_empty()).then(|| namespace.clone()));
                }
            }
            Some(Spec::DestinationRule(spec)) => {
                export_to(&spec.export_to, &mut self.namespaces);
                self.namespaces.insert(own.clone());
                let selector = spec.workload_selector.iter();
                self.labels
                    .extend(selector.flat_map(|s| s.match_labels.keys().cloned()));
            }
            Some(Spec::Sidecar(_) | Spec::WorkloadEntry(_)) | None => {}
        }
        some || before != (self.namespaces.len(), self.labels.len())
    }
}

impl Registry {
    /// The scope of a workload under the rules as they are.
    pub fn scope_of(&self, workload: &Workload) -> Scope {
        let namespace = &workload.namespace;
        let matters = self.dependences.namespaces.contains(namespace);
        let labels = workload.labels.iter();
        let labels = labels.filter(|(k, _)| self.dependences.labels.contains(*k));
        let sidecar = self.sidecar_of(workload);
        Scope {
            namespace: if matters {
                namespace.clone()
            } else {
                String::new()
            },
            labels: labels.map(|(k, v)| (k.clone(), v.clone())).collect(),
            imports: sidecar.and_then(|s| imports(s, namespace)),
            allow_any: sidecar.and_then(|s| {
                let policy = s.outbound_traffic_policy.as_ref()?;
                let denied = serves_nothing(OUTBOUND, policy).is_some();
                Some(policy.mode == OutboundTrafficPolicyMode::AllowAny && !denied)
            }),
            all: false,
        }
    }

    /// The Sidecar of a workload: one of its namespace that selects it, else one of its namespace
    /// for all, else one of the root namespace for all; of equals the oldest.
    fn sidecar_of(&self, workload: &Workload) -> Option<&Sidecar> {
        let selector = |s: &Sidecar| {
            let labels = s.workload_selector.as_ref().map(|w| &w.labels);
            labels.filter(|l| !l.is_empty()).cloned()
        };
        let selects = |s: &Sidecar| {
            selector(s).is_some_and(|l| l.iter().all(|(k, v)| workload.labels.get(k) == Some(v)))
        };
        let own = self.sidecars_in(&workload.namespace);
        let root = self.sidecars_in(&self.root_namespace);
        let for_all = |s: &&&Sidecar| selector(s).is_none();
        let chosen = own
            .iter()
            .find(|s| selects(s))
            .or_else(|| own.iter().find(for_all));
        chosen.or_else(|| root.iter().find(for_all)).copied()
    }
}

impl Registry {
    fn sidecars_in(&self, namespace: &str) -> Vec<&Sidecar> {
        let here = self
            .sidecars
            .iter()
            .filter(|o| o.meta.namespace == namespace);
        here.filter_map(|o| match &o.spec {
            Some(Spec::Sidecar(sidecar)) => Some(sidecar),
            _ => None,
        })
        .collect()
    }
}

/// The imports of a Sidecar; `None` means everything.
fn imports(sidecar: &Sidecar, own: &str) -> Option<Vec<Import>> {
    if sidecar.egress.is_empty() {
        return None;
    }
    let mut all = Vec::new();
    let carried_out = |l: &&IstioEgressListener| serves_nothing(LISTENER, *l).is_none();
    for listener in sidecar.egress.iter().filter(carried_out) {
        let port = listener.port.as_ref().map(|p| p.number).filter(|n| *n != 0);
        let port = port.map(|n| u16::try_from(n).unwrap_or(0));
        let imports = listener.hosts.iter().filter_map(|h| Import::new(h, own));
        all.extend(imports.map(|import| Import { port, ..import }));
    }
    all.sort();
    all.dedup();
    Some(all)
}
