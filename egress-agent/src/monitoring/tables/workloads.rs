//! Metrics of the workloads behind the gate. None has a series for each workload, because pods come and go.

use crate::monitoring::metric::{Group, gauge};
use crate::workloads::Counts;

/// See the module.
pub const GROUP: Group = Group {
    title: "Workloads",
    metrics: &[
        gauge(
            "egress_workload_cgroups",
            &["identity"],
            "Cgroups below the enforced roots that are workloads (known), or have network namespaces of their own and no identity (unknown; they get the root's default policy).",
            |values, out| {
                let Some((status, _)) = values.status else {
                    return;
                };
                let Counts { known, unknown } = status.rules.cgroups;
                for (identity, count) in [("known", known), ("unknown", unknown)] {
                    out.sample(&[("identity", identity)], count);
                }
            },
        ),
        gauge(
            "egress_served_network_namespaces",
            &[],
            "Network namespaces in which the proxy listens, the agent's own included.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.rules.served_namespaces);
                }
            },
        ),
        gauge(
            "egress_workloads_without_policy",
            &[],
            "Workloads that are denied everything because the kernel has no free policy for what they may see.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.rules.without_policy);
                }
            },
        ),
        gauge(
            "egress_cgroups_too_deep",
            &[],
            "Cgroups that are denied everything because they are nested deeper than the kernel programs judge (32 levels).",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.rules.too_deep.cgroups);
                }
            },
        ),
    ],
};
