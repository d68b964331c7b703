//! Which Kubernetes API the agent reads, and what it takes from there. Reads no file of the cluster.

use super::values::Span;
use super::workloads::WorkloadEntry;
use crate::failure::Failure;
use clap::Args;
use serde::Deserialize;
use std::path::PathBuf;
use std::time::Duration;

/// Set by the downward API in the agent's own pod.
const NODE_NAME: &str = "NODE_NAME";
const POD_NAME: &str = "POD_NAME";
const POD_UID: &str = "POD_UID";
/// Default of `kubernetes.publishWithin`.
const PUBLISH_WITHIN: Duration = Duration::from_secs(5);
/// Istio's default (`meshConfig.rootNamespace`).
pub const DEFAULT_ROOT_NAMESPACE: &str = "istio-system";
/// The longest name of a node: a DNS subdomain (RFC 1123).
const MAX_NODE_NAME: usize = 253;

/// `kubernetes` of the config file. `{}` is enough in a pod of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct KubernetesSettings {
    /// Name of this node in the Kubernetes API [default: $NODE_NAME]
    #[arg(id = "kubernetes_node", long = "kubernetes-node", value_name = "NAME")]
    pub node: Option<String>,
    /// File that names the Kubernetes API server [default: the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Take the identity of pods from the Kubernetes API [default: true]
    #[arg(id = "kubernetes_identity", long = "kubernetes-identity", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub identity: Option<bool>,
    /// Take rules from the Kubernetes API, beside those of files [default: false]
    #[arg(id = "kubernetes_rules", long = "kubernetes-rules", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub rules: Option<bool>,
    /// Find the cluster's own ranges in the Kubernetes API and allow them [default: true]
    #[arg(id = "kubernetes_cluster_ranges", long = "kubernetes-cluster-ranges", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub cluster_ranges: Option<bool>,
    /// Namespace whose Sidecars and DestinationRules apply in all namespaces [default: istio-system]
    #[arg(
        id = "kubernetes_root_namespace",
        long = "root-namespace",
        value_name = "NAMESPACE"
    )]
    pub root_namespace: Option<String>,
    /// Remove the taint egress-agent/not-ready from this node when the agent is ready [default: false]
    #[arg(id = "kubernetes_startup_taint", long = "kubernetes-startup-taint", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub startup_taint: Option<bool>,
    /// Publish in the Kubernetes API which rules are in force on this node, for `wait --all-nodes` [default: false]
    #[arg(id = "kubernetes_publish_rules", long = "kubernetes-publish-rules", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub publish_rules: Option<bool>,
    /// Time within which a change is published; each node writes at most once in this time [default: 5s]
    #[arg(
        id = "kubernetes_publish_within",
        long = "kubernetes-publish-within",
        value_name = "DURATION"
    )]
    pub publish_within: Option<Span>,
    /// Write a condition to the status of Istio's objects in the Kubernetes API; one agent of the cluster does [default: false]
    #[arg(id = "kubernetes_conditions", long = "kubernetes-conditions", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub conditions: Option<bool>,
    /// Write Events on this node's pods about their denied egress [default: false]
    #[arg(id = "kubernetes_events", long = "kubernetes-events", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "BOOL")]
    pub events: Option<bool>,
}

impl KubernetesSettings {
    /// These settings, and those of `below` for fields that are not set here.
    pub(super) fn over(self, below: Self) -> Self {
        Self {
            node: self.node.or(below.node),
            kubeconfig: self.kubeconfig.or(below.kubeconfig),
            identity: self.identity.or(below.identity),
            rules: self.rules.or(below.rules),
            cluster_ranges: self.cluster_ranges.or(below.cluster_ranges),
            root_namespace: self.root_namespace.or(below.root_namespace),
            startup_taint: self.startup_taint.or(below.startup_taint),
            publish_rules: self.publish_rules.or(below.publish_rules),
            publish_within: self.publish_within.or(below.publish_within),
            conditions: self.conditions.or(below.conditions),
            events: self.events.or(below.events),
        }
    }
}

/// `kubernetes` of [`super::Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent settings, each a field of its own in the config"
)]
pub struct Kubernetes {
    /// The node that the agent runs on. Set if `identity`, `startup_taint` or `publish` is.
    pub node: String,
    /// The file that names the API server. Without one it is that of the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// Whether the API says who a pod is.
    pub identity: bool,
    /// Whether rules come from the API, beside those of files.
    pub rules: bool,
    /// Whether the cluster's own ranges are found in the API and allowed.
    pub cluster_ranges: bool,
    /// The namespace whose Sidecars and DestinationRules apply in all namespaces.
    pub root_namespace: String,
    /// Whether the agent removes the startup taint from its node.
    pub startup_taint: bool,
    /// The agent's own pod; `None` outside of one.
    pub pod: Option<OwnPod>,
    /// Within which time the agent publishes changes of the rules in force on its node; `None` if it does not.
    pub publish: Option<Duration>,
    /// Whether the agent may be the one that writes conditions of Istio's objects.
    pub conditions: bool,
    /// Whether the agent writes Events on pods about denied egress.
    pub events: bool,
}

/// The agent's own pod, by the downward API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnPod {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
}

impl Kubernetes {
    /// Fills in the defaults. `environment` looks up a variable.
    pub(super) fn of(
        settings: KubernetesSettings,
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Failure> {
        let identity = settings.identity.unwrap_or(true);
        let startup_taint = settings.startup_taint.unwrap_or(false);
        let publish = settings.publish_rules.unwrap_or(false);
        let node = settings.node.or_else(|| environment(NODE_NAME));
        let node = node.unwrap_or_default();
        if (identity || startup_taint || publish) && node.is_empty() {
            return Err(Failure::usage(
                "kubernetes: no node: set NODE_NAME by the downward API (spec.nodeName), or name it with \
                 --kubernetes-node NAME or `kubernetes.node`; or set `identity: false` if the API needs to name no pod",
            ));
        }
        let events = settings.events.unwrap_or(false);
        if events && !identity {
            return Err(Failure::usage(
                "kubernetes.events: the agent knows no pod with `identity: false`; remove one of the two",
            ));
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
        if node.len() > MAX_NODE_NAME || !node.chars().all(allowed) {
            return Err(Failure::usage(format_args!(
                "kubernetes.node: `{node}` is not the name of a node: want lower-case letters, digits, `-` and `.`"
            )));
        }
        let root_namespace = settings.root_namespace;
        let root_namespace = root_namespace.unwrap_or_else(|| DEFAULT_ROOT_NAMESPACE.to_owned());
        if root_namespace.is_empty() || !root_namespace.chars().all(allowed) {
            return Err(Failure::usage(format_args!(
                "kubernetes.rootNamespace: `{root_namespace}` is not the name of a namespace"
            )));
        }
        Ok(Self {
            node,
            kubeconfig: settings.kubeconfig,
            identity,
            rules: settings.rules.unwrap_or(false),
            cluster_ranges: settings.cluster_ranges.unwrap_or(true),
            root_namespace,
            startup_taint,
            pod: environment(POD_NAME)
                .zip(environment(POD_UID))
                .map(|(name, uid)| OwnPod { name, uid }),
            conditions: settings.conditions.unwrap_or(false),
            events,
            publish: publish.then(|| {
                settings
                    .publish_within
                    .map_or(PUBLISH_WITHIN, |span| span.0)
            }),
        })
    }
}

/// Checks that entries of `workloads` select pods only if the API says who pods are.
pub(super) fn fits(
    kubernetes: Option<&Kubernetes>,
    workloads: &[WorkloadEntry],
) -> Result<(), Failure> {
    let selects = |entry: &WorkloadEntry| matches!(entry, WorkloadEntry::Pods(_));
    if kubernetes.is_some_and(|k| k.identity) || !workloads.iter().any(selects) {
        return Ok(());
    }
    Err(Failure::usage(
        "workloads: an entry with `pods` needs the Kubernetes API: add `kubernetes: {}`, or use `cgroup`",
    ))
}

impl Default for Kubernetes {
    /// Takes nothing from the API.
    fn default() -> Self {
        Self {
            node: String::new(),
            kubeconfig: None,
            identity: false,
            rules: false,
            cluster_ranges: false,
            startup_taint: false,
            pod: None,
            publish: None,
            conditions: false,
            events: false,
            root_namespace: DEFAULT_ROOT_NAMESPACE.to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_can_be_selected_only_if_the_api_says_who_they_are() {
        let entries: [WorkloadEntry; 1] =
            ["{pods: {namespace: shop}, mode: audit}".parse().unwrap()];
        let api = |identity| Kubernetes {
            identity,
            ..Kubernetes::default()
        };
        assert_eq!(fits(Some(&api(true)), &entries), Ok(()));
        assert_eq!(fits(None, &["cgroup: shop".parse().unwrap()]), Ok(()));
        for without in [None, Some(api(false))] {
            let failure = fits(without.as_ref(), &entries).unwrap_err();
            assert!(failure.message.contains("`kubernetes: {}`"), "{failure}");
        }
    }

    fn of(text: &str, variable: Option<&str>) -> Result<Kubernetes, Failure> {
        let settings = serde_yaml::from_str(text).unwrap();
        Kubernetes::of(settings, |name| {
            variable.filter(|_| name == NODE_NAME).map(str::to_owned)
        })
    }

    #[test]
    fn the_node_comes_from_the_config_or_the_downward_api() {
        let node = |text, variable| of(text, variable).map(|k| k.node);
        assert_eq!(node("{}", Some("node-1")), Ok("node-1".to_owned()));
        assert_eq!(node("node: b", Some("node-1")), Ok("b".to_owned()));
        for (text, variable, part) in [
            ("{}", None, "NODE_NAME"),
            ("{}", Some(""), "NODE_NAME"),
            ("{identity: false, startupTaint: true}", None, "NODE_NAME"),
            ("node: 'a,status.phase=x'", None, "`a,status.phase=x`"),
            ("{}", Some("Node"), "`Node`"),
        ] {
            let failure = of(text, variable).unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
        }
        let nothing = of("{identity: false, clusterRanges: false}", None);
        assert_eq!(nothing, Ok(Kubernetes::default()));
    }
}
