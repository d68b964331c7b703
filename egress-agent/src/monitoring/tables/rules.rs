//! Metrics of the rules, their sources, and the kernel's tables that are made from them.

use crate::in_use::InUse;
use crate::monitoring::metric::Metric::{Counted, Timed};
use crate::monitoring::metric::{Group, gauge};
use crate::monitoring::values::Values;
use crate::observe::histogram::Timing;
use crate::operate::status::RulesStatus;
use egress_core::istio::Kind;

fn rules<'a>(values: &Values<'a>) -> Option<&'a RulesStatus> {
    values.status.map(|(status, _)| &status.rules)
}

fn tables(values: &Values<'_>) -> impl Iterator<Item = (&'static str, InUse)> {
    let all = rules(values).map(|rules| {
        [
            ("policies", rules.policies),
            ("addresses", rules.addresses),
            ("networks", rules.networks),
        ]
    });
    all.into_iter().flatten()
}

/// See the module.
pub const GROUP: Group = Group {
    title: "Rules",
    metrics: &[
        gauge(
            "egress_rules_objects",
            &["kind"],
            "Istio objects in force, last good versions of invalid ones included.",
            |values, out| {
                for kind in Kind::ALL.map(Kind::as_str) {
                    if let Some(rules) = rules(values) {
                        let count = rules.kinds.get(kind).copied().unwrap_or(0);
                        out.sample(&[("kind", kind)], count);
                    }
                }
            },
        ),
        gauge(
            "egress_rules_rejected",
            &["kind", "instead"],
            "Documents of Istio objects that are invalid, or given more than once, and not in force. Instead: last-good (the last good version is in force), denied (their hosts are denied), left-out, other (a valid document with the same name applies).",
            |values, out| {
                for rejected in rules(values).iter().flat_map(|rules| &rules.rejected) {
                    let labels = [
                        ("kind", rejected.kind.as_str()),
                        ("instead", rejected.instead.word()),
                    ];
                    out.sample(&labels, rejected.documents);
                }
            },
        ),
        gauge(
            "egress_rules_messages",
            &["severity"],
            "Lines of `egress-agent status` about the rules: problem (something is not in force), note (a field or document was skipped or is not carried out), finding (valid objects that together may not do what their author wants).",
            |values, out| {
                if let Some(RulesStatus { lines, .. }) = rules(values) {
                    for (severity, count) in [
                        ("problem", lines.problems),
                        ("note", lines.notes),
                        ("finding", lines.findings),
                    ] {
                        out.sample(&[("severity", severity)], count);
                    }
                }
            },
        ),
        gauge(
            "egress_rules_last_load_successful",
            &[],
            "1 if everything that the sources of rules contain is in force.",
            |values, out| {
                if let Some(rules) = rules(values) {
                    out.value(u8::from(rules.problem.is_none()));
                }
            },
        ),
        gauge(
            "egress_rules_last_applied_timestamp_seconds",
            &[],
            "When rules were last put in force, in seconds since 1970.",
            |values, out| {
                if let Some(at) = rules(values).and_then(|rules| rules.applied_at) {
                    out.value(at);
                }
            },
        ),
        Timed(Timing::RulesInForce),
        gauge(
            "egress_rules_generation",
            &[],
            "Generation of the kernel's policies. It grows with each change of the tables, also after DNS answers.",
            |values, out| {
                if let Some(rules) = rules(values) {
                    out.value(rules.generation);
                }
            },
        ),
        gauge(
            "egress_table_entries",
            &["table"],
            "What is in use in the kernel's tables: policies (one for each set of workloads that see the same), single addresses and networks of all policies.",
            |values, out| {
                for (table, InUse { used, .. }) in tables(values) {
                    out.sample(&[("table", table)], used);
                }
            },
        ),
        gauge(
            "egress_table_entries_limit",
            &["table"],
            "The most entries that the table has room for. Rules that do not fit are rejected as a whole; addresses of names that do not fit are denied.",
            |values, out| {
                for (table, InUse { limit, .. }) in tables(values) {
                    out.sample(&[("table", table)], limit);
                }
            },
        ),
        Counted("egress_table_entries_left_out_total"),
    ],
};
