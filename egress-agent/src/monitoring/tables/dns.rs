//! Metrics of the agent's own DNS questions, and of the workloads' queries.

use crate::monitoring::metric::Metric::{Counted, Timed};
use crate::monitoring::metric::{Group, gauge};
use crate::observe::histogram::Timing;

/// See the module.
pub const GROUP: Group = Group {
    title: "DNS",
    metrics: &[
        gauge(
            "egress_dns_names",
            &[],
            "Listed names whose addresses the agent asks for.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.rules.names);
                }
            },
        ),
        gauge(
            "egress_dns_names_without_address",
            &[],
            "Of them, those that have no address yet and are denied.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.rules.names_without_address);
                }
            },
        ),
        gauge(
            "egress_dns_names_failing",
            &[],
            "Of them, those whose last question had no usable answer. They keep their last good addresses. `egress-agent status` names them with the reason.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.rules.names_failing);
                }
            },
        ),
        gauge(
            "egress_dns_leases",
            &[],
            "Leases of addresses from DNS answers. An address of two names has two.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.rules.leases);
                }
            },
        ),
        Counted("egress_dns_questions_total"),
        Timed(Timing::DnsQuestion),
        Counted("egress_dns_queries_total"),
        Counted("egress_dns_queries_leased_total"),
    ],
};
