//! Which Kubernetes API the agent reads, and what it takes from there. Reads no file of the cluster.

use super::settings::KubernetesSettings;
use super::workloads::WorkloadEntry;
use crate::failure::Failure;
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
const LONGEST: usize = 253;

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
        if node.len() > LONGEST || !node.chars().all(allowed) {
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
