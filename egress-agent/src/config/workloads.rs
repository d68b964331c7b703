//! Entries of `workloads`. An entry names cgroups by a pattern, and the namespace, labels and service account of the
//! workload in them: for services of a VM, and for pods without a Kubernetes API. Or it selects pods of the Kubernetes
//! API and gives them a mode.

use super::choices::Mode;
use super::glob::CgroupGlob;
use egress_core::registry::scope::Workload;
use serde::de::value::MapAccessDeserializer;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// One entry of `workloads`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadEntry {
    /// Says which workload is in a cgroup.
    Cgroup(CgroupEntry),
    /// Says which mode pods have.
    Pods(PodsEntry),
}

/// Whether this mode and these entries deny nothing to any workload.
pub fn audits_all(mode: Mode, workloads: &[WorkloadEntry]) -> bool {
    let enforced = |entry: &WorkloadEntry| entry.mode() == Some(Mode::Enforce);
    mode == Mode::Audit && !workloads.iter().any(enforced)
}

/// An entry with `cgroup`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupEntry {
    /// Pattern for cgroups. Each cgroup that matches is a workload, with all cgroups below it. If two entries match,
    /// the first one applies. A cgroup that a pod or a service may have made itself matches only if a part of the pattern
    /// with text matches the folder of that pod or service.
    pub cgroup: CgroupGlob,
    /// Namespace: which Sidecars, exportTo and short names apply.
    pub namespace: String,
    /// Labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// Service account.
    pub service_account: String,
    /// Whether the workload's unlisted destinations are denied or only logged. If not set, the global `mode` applies.
    pub mode: Option<Mode>,
}

/// An entry with `pods`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodsEntry {
    /// The pods that it is about, unless an entry with `cgroup` matches theirs. If two entries select a pod, the first
    /// one applies.
    pub pods: PodSelector,
    /// Whether their unlisted destinations are denied or only logged.
    pub mode: Mode,
}

/// Selects pods of the Kubernetes API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PodSelector {
    /// Their namespace: whoever may create pods there can give them any label.
    pub namespace: String,
    /// Labels that they must have; without any, all pods of the namespace.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

impl PodSelector {
    /// Whether it selects a workload.
    pub fn selects(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        let has = |(name, value): (&String, &String)| labels.get(name) == Some(value);
        self.namespace == namespace && self.labels.iter().all(has)
    }
}

impl WorkloadEntry {
    /// The mode that the entry sets.
    pub const fn mode(&self) -> Option<Mode> {
        match self {
            Self::Cgroup(entry) => entry.mode,
            Self::Pods(entry) => Some(entry.mode),
        }
    }
}

/// The fields of both forms.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fields {
    cgroup: Option<CgroupGlob>,
    pods: Option<PodSelector>,
    namespace: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    service_account: Option<String>,
    mode: Option<Mode>,
}

impl Fields {
    fn entry(self) -> Result<WorkloadEntry, &'static str> {
        // Kubernetes' default for a name that is not given.
        let named = |name: Option<String>| name.unwrap_or_else(|| "default".to_owned());
        match (self.cgroup, self.pods) {
            (Some(cgroup), None) => Ok(WorkloadEntry::Cgroup(CgroupEntry {
                cgroup,
                namespace: named(self.namespace),
                labels: self.labels.unwrap_or_default(),
                service_account: named(self.service_account),
                mode: self.mode,
            })),
            (None, Some(pods)) => {
                let given = self.namespace.is_some() || self.service_account.is_some();
                if given || self.labels.is_some() {
                    return Err(
                        "with `pods` the API says who a pod is: move `namespace` and `labels` into `pods`",
                    );
                }
                let mode = self
                    .mode
                    .ok_or("with `pods`: want `mode`, which is all that it sets")?;
                Ok(WorkloadEntry::Pods(PodsEntry { pods, mode }))
            }
            (None, None) => {
                Err("missing field `cgroup` (or `pods`, for pods of the Kubernetes API)")
            }
            (Some(_), Some(_)) => Err("`cgroup` and `pods` exclude each other: make two entries"),
        }
    }
}

/// Builds an entry inside the visitor, so that `serde_yaml` adds its path and line to an error.
struct Entry;

impl<'de> de::Visitor<'de> for Entry {
    type Value = WorkloadEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a workload with `cgroup` or `pods`")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<WorkloadEntry, A::Error> {
        let fields = Fields::deserialize(MapAccessDeserializer::new(map))?;
        fields.entry().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for WorkloadEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entry)
    }
}

/// Parses a flag, which has the syntax of the file: `{cgroup: shop-*, namespace: shop}`.
impl FromStr for WorkloadEntry {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        serde_yaml::from_str(s).map_err(|e| format!("`{s}` is not a workload: {e}"))
    }
}

impl From<&CgroupEntry> for Workload {
    fn from(entry: &CgroupEntry) -> Self {
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

    fn cgroup(text: &str) -> CgroupEntry {
        match text.parse() {
            Ok(WorkloadEntry::Cgroup(entry)) => entry,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_entry_is_the_same_in_the_file_and_on_the_command_line() {
        let entry = cgroup(
            "{cgroup: shop/*, namespace: shop, labels: {app: web}, serviceAccount: web, mode: audit}",
        );
        assert_eq!(entry.mode, Some(Mode::Audit));
        assert_eq!(entry.namespace, "shop");
        assert_eq!(entry.labels["app"], "web");
        let short = cgroup("cgroup: shop");
        assert_eq!(
            (short.namespace.as_str(), short.service_account.as_str()),
            ("default", "default")
        );
        assert_eq!(short.mode, None);
        for (wrong, part) in [
            ("shop", "`cgroup` or `pods`"),
            ("{namespace: a}", "`cgroup`"),
            ("{namespace: a, labels: {a: b}, mode: audit}", "`pods`"),
            ("{cgroup: a, labels: [a]}", "labels"),
            ("{cgroup: a, x: 1}", "`x`"),
            ("{cgroup: a, mode: off}", "off"),
            ("{cgroup: a, pods: {namespace: a}, mode: audit}", "exclude"),
            ("{pods: {namespace: a}}", "`mode`"),
            ("{pods: {labels: {a: b}}, mode: audit}", "namespace"),
            ("{pods: {namespace: a, app: b}, mode: audit}", "`app`"),
            (
                "{pods: {namespace: a}, labels: {a: b}, mode: audit}",
                "into `pods`",
            ),
        ] {
            let error = wrong.parse::<WorkloadEntry>().unwrap_err();
            assert!(error.contains(part), "{wrong}: {error}");
        }
    }

    #[test]
    fn pods_are_selected_by_namespace_and_all_of_the_labels() {
        let entry = "{pods: {namespace: shop, labels: {team: a, tier: web}}, mode: audit}";
        let Ok(WorkloadEntry::Pods(entry)) = entry.parse() else {
            panic!("an entry with pods")
        };
        let labels = |all: &[(&str, &str)]| {
            let owned = all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            owned.collect::<BTreeMap<_, _>>()
        };
        let both = labels(&[("team", "a"), ("tier", "web"), ("other", "x")]);
        assert!(entry.pods.selects("shop", &both));
        assert!(!entry.pods.selects("blog", &both));
        assert!(!entry.pods.selects("shop", &labels(&[("team", "a")])));
        assert!(
            !entry
                .pods
                .selects("shop", &labels(&[("team", "a"), ("tier", "db")]))
        );
    }
}
