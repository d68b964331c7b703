//! Entries of `workloads`: each names cgroups by a pattern, and the namespace, labels and service account
//! of the workload in them. For services of a VM, and for pods without a Kubernetes API.

use super::choices::Mode;
use super::glob::CgroupGlob;
use egress_core::registry::scope::Workload;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::str::FromStr;

/// One entry of `workloads`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkloadEntry {
    /// Pattern for cgroups. Each cgroup that matches is a workload, with all cgroups below it. If
    /// two entries match, the first one applies.
    pub cgroup: CgroupGlob,
    /// Namespace: which Sidecars, exportTo and short names apply.
    #[serde(default = "default_name")]
    pub namespace: String,
    /// Labels, for selectors.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Service account.
    #[serde(default = "default_name")]
    pub service_account: String,
    /// Whether the workload's unlisted destinations are denied or only logged. If not set, the global
    /// `mode` applies.
    pub mode: Option<Mode>,
}

/// Kubernetes' default for a name that is not given.
fn default_name() -> String {
    "default".to_owned()
}

/// Parses a flag, which has the syntax of the file: `{cgroup: shop-*, namespace: shop}`.
impl FromStr for WorkloadEntry {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        serde_yaml::from_str(s).map_err(|e| format!("`{s}` is not a workload: {e}"))
    }
}

impl From<&WorkloadEntry> for Workload {
    fn from(entry: &WorkloadEntry) -> Self {
        Self {
            namespace: entry.namespace.clone(),
            labels: entry.labels.clone(),
            service_account: entry.service_account.clone(),
            audit: entry.mode.map(|mode| mode == Mode::Audit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_the_same_in_the_file_and_on_the_command_line() {
        let entry: WorkloadEntry =
            "{cgroup: shop/*, namespace: shop, labels: {app: web}, serviceAccount: web, mode: audit}"
                .parse()
                .unwrap();
        assert_eq!(entry.mode, Some(Mode::Audit));
        assert_eq!(entry.namespace, "shop");
        assert_eq!(entry.labels["app"], "web");
        let short: WorkloadEntry = "cgroup: shop".parse().unwrap();
        assert_eq!(
            (short.namespace.as_str(), short.service_account.as_str()),
            ("default", "default")
        );
        assert_eq!(short.mode, None);
        for wrong in [
            "shop",
            "{namespace: a}",
            "{cgroup: a, labels: [a]}",
            "{cgroup: a, x: 1}",
            "{cgroup: a, mode: off}",
        ] {
            assert!(wrong.parse::<WorkloadEntry>().is_err(), "{wrong}");
        }
    }
}
