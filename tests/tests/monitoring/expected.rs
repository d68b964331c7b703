//! The metrics of an agent after the traffic of `metrics_say_what_the_agent_did_and_are_valid`.

use std::ops::RangeInclusive;

/// A name, labels, and the values that are right.
type Expected = (
    &'static str,
    &'static [(&'static str, &'static str)],
    RangeInclusive<f64>,
);

/// See the module.
pub const EXPECTED: &[Expected] = &[
    ("egress_ready", &[], 1.0..=1.0),
    ("egress_gate_closed", &[], 1.0..=1.0),
    ("egress_not_ready", &[], 0.0..=0.0),
    ("egress_mode", &[("mode", "enforce")], 1.0..=1.0),
    (
        "egress_canaries_total",
        &[("canary", "gate"), ("result", "passed")],
        1.0..=99.0,
    ),
    (
        "egress_canaries_total",
        &[("canary", "redirect"), ("result", "passed")],
        1.0..=99.0,
    ),
    (
        "egress_kernel_verdicts_total",
        &[("verdict", "denied")],
        1.0..=99.0,
    ),
    (
        "egress_kernel_verdicts_total",
        &[("verdict", "redirected")],
        2.0..=99.0,
    ),
    (
        "egress_proxy_requests_total",
        &[("protocol", "http"), ("response_code_class", "2xx")],
        1.0..=1.0,
    ),
    (
        "egress_proxy_requests_total",
        &[("protocol", "tls")],
        1.0..=1.0,
    ),
    (
        "egress_proxy_response_flags_total",
        &[("response_flag", "DC")],
        1.0..=2.0,
    ),
    (
        "egress_proxy_bytes_total",
        &[("direction", "sent")],
        100.0..=1e6,
    ),
    (
        "egress_proxy_request_duration_seconds_count",
        &[],
        3.0..=4.0,
    ),
    (
        "egress_proxy_limit",
        &[("resource", "connections")],
        1.0..=1e6,
    ),
    (
        "egress_rules_objects",
        &[("kind", "ServiceEntry")],
        2.0..=3.0,
    ),
    ("egress_rules_rejected", &[], 1.0..=1.0),
    ("egress_rules_last_load_successful", &[], 0.0..=0.0),
    (
        "egress_rules_enforcement_duration_seconds_count",
        &[],
        2.0..=9.0,
    ),
    ("egress_rules_generation", &[], 1.0..=1e6),
    (
        "egress_table_entries",
        &[("table", "addresses")],
        1.0..=99.0,
    ),
    (
        "egress_table_entries_limit",
        &[("table", "addresses")],
        1000.0..=1e9,
    ),
    ("egress_dns_names", &[], 2.0..=3.0),
    ("egress_dns_leases", &[], 4.0..=9.0),
    (
        "egress_dns_questions_total",
        &[("result", "answered")],
        2.0..=9.0,
    ),
    ("egress_dns_question_duration_seconds_count", &[], 2.0..=9.0),
    (
        "egress_workload_cgroups",
        &[("identity", "known")],
        1.0..=1.0,
    ),
    ("egress_served_network_namespaces", &[], 1.0..=1.0),
    ("egress_build_info", &[], 1.0..=1.0),
    ("process_open_fds", &[], 10.0..=1e5),
    ("process_resident_memory_bytes", &[], 1e6..=1e9),
];
