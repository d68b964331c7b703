//! Metrics of the agent's own DNS questions, and of the workloads' queries.

use crate::monitoring::metric::Metric::{Counted, Timed};
use crate::monitoring::metric::{Group, counter, gauge};
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
        gauge(
            "egress_dns_names_learned",
            &[],
            "Names below wildcards, and hosts with resolution NONE, that workloads asked for and that have addresses, with dns.intercept auto.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.rules.names_learned);
                }
            },
        ),
        gauge(
            "egress_dns_alias_targets",
            &[],
            "Targets of aliases in answers for listed names that workloads may ask for, with dns.intercept auto.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.dns.alias_targets);
                }
            },
        ),
        counter(
            "egress_dns_addresses_evicted_total",
            &["reason"],
            "Addresses that lost their lease before its time. Reason address: a newer address of the same name took the place, because the name had as many as it may. Reason name: a learned name ended, because a policy or all policies had as many as they may.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    let lost = status.rules.lost;
                    out.sample(&[("reason", "address")], lost.evicted);
                    out.sample(&[("reason", "name")], lost.of_names);
                }
            },
        ),
        counter(
            "egress_dns_addresses_left_out_total",
            &[],
            "Addresses of DNS answers that got no lease and are denied: their name has as many as it may, and all of them were in a recent answer.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.rules.lost.left_out);
                }
            },
        ),
        Counted("egress_dns_questions_total"),
        Timed(Timing::DnsQuestion),
        Counted("egress_dns_queries_total"),
        Counted("egress_dns_queries_leased_total"),
    ],
};
