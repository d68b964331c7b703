//! The agent's status, as `status -o json` and `wait` read it.
//!
//! Owns the fields, and with them the list of the gate's current values. `reporter` fills them in, `text`
//! prints them for people.

use crate::config::{Intercept, Mode};
use crate::dns::ServerState;
use crate::in_use::InUse;
use crate::kubernetes::Ranges;
use crate::proxy::ProxyUse;
use crate::sources::Instead;
use crate::workloads::{Counts, TooDeep};
use egress_core::policy::leases::Lost;
use egress_ebpf::ids::{CgroupId, Generation, PolicyId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everything that `status` shows. The field names are part of `-o json`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent facts, each a field of its own in the JSON"
)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The agent's version and a digest of its BPF programs. Empty from agents that do not say it.
    #[serde(default)]
    pub build: String,
    /// Version of the maps' types.
    pub abi: u32,
    /// Whether an agent runs. Without one, only the pinned gate is described.
    pub running: bool,
    /// The last canary below each enforced root passed.
    pub closed: bool,
    /// The last canary passed, and no part of readiness has a problem: among others, the gate is closed,
    /// its roots contain the workloads, its pins outlive the agent, and a redirected flow reaches it.
    pub ready: bool,
    /// Every reason why it is not ready; `None` if it is.
    pub trouble: Option<String>,
    /// The same reasons as a list.
    pub troubles: Vec<String>,
    /// Seconds since a canary last passed.
    pub canary_age_seconds: Option<f64>,
    /// Enforced roots.
    pub roots: Vec<String>,
    /// Whether the agent adopted the maps of a previous agent.
    pub adopted: bool,
    /// The kernel, and the gaps that it leaves.
    pub kernel: KernelStatus,
    /// The rules, and the tables that the agent made from them.
    pub rules: RulesStatus,
    /// The cluster's own ranges, which are allowed without a rule; `None` without a cluster.
    #[serde(default)]
    pub cluster: Option<Ranges>,
    /// Counters of the proxy since the agent's start.
    pub proxy: BTreeMap<String, u64>,
    /// Counters of the agent itself since its start.
    #[serde(default)]
    pub agent: BTreeMap<String, u64>,
    /// What the proxy has in use.
    #[serde(default)]
    pub proxy_use: ProxyUse,
    /// The workloads' queries to DNS servers.
    #[serde(default)]
    pub dns: DnsStatus,
    /// The kinds that are followed in the Kubernetes API; empty without it.
    #[serde(default)]
    pub kubernetes: Vec<FollowedStatus>,
    /// Cgroups below the roots that are workloads, or have network namespaces of their own.
    pub workloads: Vec<WorkloadStatus>,
    /// Counters of the kernel programs since the maps were created.
    pub counters: BTreeMap<String, u64>,
}

/// `dns` of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DnsStatus {
    /// Who answers them.
    pub intercept: Intercept,
    /// The agent's name servers, in the order in which they are asked.
    #[serde(default)]
    pub servers: Vec<ServerState>,
    /// Queries that wait for an answer.
    pub waiting: usize,
    /// Bytes of answers that are kept.
    pub cache_bytes: usize,
    /// Targets of aliases that may be asked for.
    #[serde(default)]
    pub alias_targets: usize,
}

/// `kernel` of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KernelStatus {
    /// `uname -r`.
    pub release: String,
    /// Ways out that this kernel leaves open, and what closes them.
    pub gaps: Vec<String>,
    /// Programs of other software that run for the same calls as the gate's and can change a destination: hook
    /// and name.
    #[serde(default)]
    pub neighbours: Vec<String>,
}

/// `rules` of [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RulesStatus {
    /// The mode of workloads without a `mode` of their own.
    pub mode: Mode,
    /// Resources in force.
    pub objects: usize,
    /// The same by kind.
    #[serde(default)]
    pub kinds: BTreeMap<String, usize>,
    /// Documents of resources that are not in force because they are invalid or given more than once.
    #[serde(default)]
    pub rejected: Vec<Rejected>,
    /// When rules were last put in force, in seconds since 1970.
    #[serde(default)]
    pub applied_at: Option<u64>,
    /// Why the present content of the files is not in force.
    pub problem: Option<String>,
    /// How many problems, notes and findings there are.
    #[serde(default)]
    pub lines: RuleLines,
    /// The first problems of the files: file, line, field, reason, and what is in force instead.
    pub problems: Vec<String>,
    /// The first documents and fields that were skipped or are not carried out, by file, line and
    /// field.
    pub notes: Vec<String>,
    /// The first findings across objects: valid objects that together may not do what their author wants.
    pub findings: Vec<String>,
    /// Generation of the kernel's policies.
    pub generation: Generation,
    /// Policies: one for each set of workloads that see the same, and the default.
    #[serde(default)]
    pub policies: InUse,
    /// Single addresses in the tables.
    pub addresses: InUse,
    /// Networks in the tables.
    pub networks: InUse,
    /// Leases of addresses from DNS answers. An address of two names has two.
    #[serde(default)]
    pub leases: usize,
    /// Cgroups that are workloads, or have network namespaces of their own.
    #[serde(default)]
    pub cgroups: Counts,
    /// Network namespaces in which the proxy listens, the agent's own included.
    #[serde(default)]
    pub served_namespaces: usize,
    /// Workloads that are denied everything, because the kernel has no free policy for their view.
    pub without_policy: usize,
    /// Cgroups that are denied everything, because they are nested deeper than the kernel judges.
    pub too_deep: TooDeep,
    /// Listed names whose addresses are asked for.
    pub names: usize,
    /// Of them, those that have no address yet, and are denied until they have one.
    pub names_without_address: usize,
    /// How many names' last question failed.
    #[serde(default)]
    pub names_failing: usize,
    /// Names that workloads asked for and that no rule makes the agent ask for.
    #[serde(default)]
    pub names_learned: usize,
    /// Addresses of answers without a lease for want of room, since the start.
    #[serde(default)]
    pub lost: LostAddresses,
    /// Hosts that may have allocated addresses, and the most that can have some.
    #[serde(default)]
    pub allocated: InUse,
    /// Names whose last question failed, and why.
    pub failing: BTreeMap<String, String>,
    /// Counts since the start.
    #[serde(flatten)]
    pub counters: BTreeMap<String, u64>,
}

/// `rules.lost` of [`Status`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LostAddresses {
    /// They lost their lease to newer addresses of a full name.
    pub evicted: u64,
    /// They lost their lease because there were too many learned names.
    pub of_names: u64,
    /// They got none, because the name was full.
    pub left_out: u64,
}

impl From<Lost> for LostAddresses {
    fn from(lost: Lost) -> Self {
        let Lost {
            evicted,
            of_names,
            left_out,
        } = lost;
        Self {
            evicted,
            of_names,
            left_out,
        }
    }
}

/// Documents of one kind that are not in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejected {
    /// `ServiceEntry`.
    pub kind: String,
    /// What is in force in its place.
    pub instead: Instead,
    /// How many.
    pub documents: usize,
}

/// Numbers of lines about the rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleLines {
    /// What is wrong.
    pub problems: usize,
    /// What was skipped or is not carried out.
    pub notes: usize,
    /// Valid objects that together may not do what their author wants.
    pub findings: usize,
}

/// A kind of objects in the Kubernetes API.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FollowedStatus {
    /// Its plural name.
    pub kind: String,
    /// Whether all objects were read since the agent's start.
    pub synced: bool,
    /// Known objects.
    pub objects: usize,
    /// Seconds since the API server last answered, while it does not.
    pub away_seconds: Option<f64>,
    /// Why it does not.
    pub problem: Option<String>,
    /// Seconds since the API server last sent anything about the kind.
    pub last_answer_seconds: Option<f64>,
    /// Requests that failed, each of which is followed by another one.
    pub failures: u64,
    /// Objects that were received and cannot be used.
    pub refused: u64,
}

/// A cgroup below an enforced root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadStatus {
    /// Its path in the hierarchy, as in `/proc/PID/cgroup` and in the log.
    pub cgroup: String,
    /// The kernel's id.
    pub id: CgroupId,
    /// `NAMESPACE/SERVICE-ACCOUNT`; `None` if nothing gives it an identity.
    pub identity: Option<String>,
    /// `metadata.uid` of the pod, where the path names one; of a static pod, the hash of its manifest.
    pub pod: Option<String>,
    /// Id of the container, where the path names one.
    pub container: Option<String>,
    /// `NAMESPACE/NAME` of the pod, if the Kubernetes API knows it.
    #[serde(default)]
    pub pod_name: Option<String>,
    /// Name of the container, if the Kubernetes API knows it.
    #[serde(default)]
    pub container_name: Option<String>,
    /// The workload that the pod belongs to, such as `Deployment/client`.
    #[serde(default)]
    pub owner: Option<String>,
    /// Its own mode, if it has one.
    pub mode: Option<Mode>,
    /// Its own policy; without one, the policy of the cgroup above it applies.
    pub policy: Option<PolicyId>,
    /// Network namespaces of its processes other than the agent's.
    pub network_namespaces: usize,
    /// Those of them in which the proxy listens.
    pub proxied: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_names_are_camel_case_and_come_back() {
        let mut status = Status {
            canary_age_seconds: Some(1.5),
            ..Status::default()
        };
        status.rules.mode = Mode::Audit;
        status.rules.counters.insert("flowsEnded".into(), 3);
        status.proxy.insert("denied".into(), 2);
        let json = serde_json::to_string(&status).unwrap();
        assert!(
            json.contains("\"canaryAgeSeconds\":1.5") && json.contains("\"flowsEnded\":3"),
            "{json}"
        );
        assert!(
            json.contains("\"mode\":\"audit\"") && json.contains("\"proxy\":{\"denied\":2}"),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
    }
}
