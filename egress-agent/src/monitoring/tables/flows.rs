//! Metrics of verdicts: what the kernel programs and the proxy allowed and denied.

use crate::monitoring::metric::Metric::Counted;
use crate::monitoring::metric::{Group, counter};

/// See the module.
pub const GROUP: Group = Group {
    title: "Verdicts and denials",
    metrics: &[
        Counted("egress_kernel_verdicts_total"),
        counter(
            "egress_denials_total",
            &["by", "verdict", "reason", "workload_namespace"],
            "Denials since the agent's start, by kernel, proxy or DNS server, by the reason in the log line, and by the Kubernetes namespace of the workload (unknown: no entry or pod is known for its cgroup). Verdict would-deny: an auditing policy let it pass. The kernel reports repeats of a denial with its next event and no lost events, so this counter may be short; egress_kernel_verdicts_total counts each of them, except that an interrupt in the middle of an increment can lose one. At most 1000 combinations are counted apart; those without a denial for an hour make room, and the rest has the namespace other.",
            |values, out| {
                for (denied, count) in values.registry.own.denied().counts() {
                    let verdict = if denied.audit { "would-deny" } else { "denied" };
                    let labels = [
                        ("by", denied.by.word()),
                        ("verdict", verdict),
                        ("reason", denied.reason),
                        ("workload_namespace", &denied.namespace),
                    ];
                    out.sample(&labels, count);
                }
            },
        ),
        Counted("egress_proxy_denials_total"),
        Counted("egress_kernel_answers_total"),
        Counted("egress_kernel_denials_repeated_total"),
        Counted("egress_kernel_events_lost_total"),
        Counted("egress_kernel_flow_table_full_total"),
        Counted("egress_denial_events_total"),
        Counted("egress_denials_not_logged_total"),
        Counted("egress_flows_ended_total"),
    ],
};
