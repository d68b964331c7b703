//! For each alert, what its metrics say when all is well, and when it must fire.

/// An alert with the metrics that it is about: labels, values that are fine and values that are not, one a minute. The
/// alert is judged after as many minutes.
pub type Case = (
    &'static str,
    u32,
    &'static [(&'static str, &'static str, &'static str, &'static str)],
);

/// In the order of the file.
pub const CASES: &[Case] = &[
    (
        "EgressGateOpen",
        10,
        &[("egress_gate_closed", "", "1x10", "1x4 0x5")],
    ),
    (
        "EgressCanaryOverdue",
        10,
        &[(
            "egress_canary_last_passed_timestamp_seconds",
            "",
            "0+60x10",
            "0x10",
        )],
    ),
    (
        "EgressCanaryFailing",
        10,
        &[(
            "egress_canaries_total",
            "canary=\"gate\",result=\"failed\"",
            "3x10",
            "0x4 2x5",
        )],
    ),
    (
        "EgressAgentNotReady",
        10,
        &[("egress_not_ready", "reason=\"redirect\"", "0x7 1x2", "1x10")],
    ),
    ("EgressAgentDown", 10, &[("up", "", "1x10", "0x10")]),
    (
        "EgressAgentRestarting",
        30,
        &[
            ("process_start_time_seconds", "", "1x30", "1 2 3 4 5 5x25"),
            (
                "egress_build_info",
                "version=\"1\",abi=\"1\"",
                "1x30",
                "1x30",
            ),
        ],
    ),
    (
        "EgressEngineBusy",
        10,
        &[("egress_status_age_seconds", "", "0.5x10", "30+60x10")],
    ),
    (
        "EgressAuditMode",
        70,
        &[("egress_mode", "mode=\"audit\"", "0x70", "1x70")],
    ),
    (
        "EgressVersionsDiffer",
        400,
        &[
            (
                "egress_build_info",
                "version=\"1\",abi=\"1\"",
                "1x400",
                "1x400",
            ),
            (
                "egress_build_info",
                "version=\"2\",abi=\"1\"",
                "_x400",
                "1x400",
            ),
        ],
    ),
    (
        "EgressRulesRejected",
        10,
        &[("egress_rules_last_load_successful", "", "1x10", "0x10")],
    ),
    (
        "EgressRulesSlow",
        60,
        &[
            (
                "egress_rules_enforcement_duration_seconds_bucket",
                "le=\"0.1\"",
                "0+5x60",
                "0x60",
            ),
            (
                "egress_rules_enforcement_duration_seconds_bucket",
                "le=\"10.0\"",
                "0+5x60",
                "0+5x60",
            ),
            (
                "egress_rules_enforcement_duration_seconds_bucket",
                "le=\"+Inf\"",
                "0+5x60",
                "0+5x60",
            ),
        ],
    ),
    (
        "EgressKubernetesAway",
        20,
        &[(
            "egress_kubernetes_away_seconds",
            "kind=\"serviceentries\"",
            "0x5 60 120 180 0x12",
            "60+60x20",
        )],
    ),
    (
        "EgressKubernetesObjectsRefused",
        20,
        &[
            (
                "egress_kubernetes_objects_refused_total",
                "kind=\"serviceentries\"",
                "3x20",
                "3x5 4x15",
            ),
            ("egress_kubernetes_ranges_refused", "", "0x20", "0x20"),
        ],
    ),
    (
        "EgressTableNearlyFull",
        20,
        &[
            (
                "egress_table_entries",
                "table=\"networks\"",
                "80x20",
                "81x20",
            ),
            (
                "egress_table_entries_limit",
                "table=\"networks\"",
                "100x20",
                "100x20",
            ),
        ],
    ),
    (
        "EgressAddressesLeftOut",
        10,
        &[("egress_table_entries_left_out_total", "", "7x10", "0x4 1x5")],
    ),
    (
        "EgressWorkloadsWithoutPolicy",
        10,
        &[("egress_workloads_without_policy", "", "0x10", "1x10")],
    ),
    (
        "EgressCgroupsTooDeep",
        10,
        &[("egress_cgroups_too_deep", "", "0x10", "1x10")],
    ),
    (
        "EgressDNSFailing",
        20,
        &[
            ("egress_dns_names_failing", "", "1x20", "2x20"),
            ("egress_dns_names", "", "10x20", "10x20"),
        ],
    ),
    (
        "EgressNamesWithoutAddress",
        40,
        &[("egress_dns_names_without_address", "", "1x20 0x20", "1x40")],
    ),
    (
        "EgressAddressesLeftOut",
        30,
        &[("egress_dns_addresses_left_out_total", "", "5x30", "0+1x30")],
    ),
    (
        "EgressDenials",
        40,
        &[(
            "egress_denials_total",
            "by=\"kernel\",verdict=\"denied\",reason=\"not-listed\",workload_namespace=\"shop\"",
            "0+30x40",
            "0+90x40",
        )],
    ),
    (
        "EgressDenialsNotReported",
        30,
        &[("egress_kernel_events_lost_total", "", "9x30", "0+1x30")],
    ),
    (
        "EgressFlowTableFull",
        10,
        &[("egress_kernel_flow_table_full_total", "", "9x10", "0x4 1x5")],
    ),
    (
        "EgressProxyNearlyFull",
        20,
        &[
            (
                "egress_proxy_in_use",
                "resource=\"connections\"",
                "80x20",
                "90x20",
            ),
            (
                "egress_proxy_limit",
                "resource=\"connections\"",
                "100x20",
                "100x20",
            ),
        ],
    ),
    (
        "EgressProxyOverloaded",
        30,
        &[(
            "egress_proxy_response_flags_total",
            "response_flag=\"UO\"",
            "0+1x30",
            "0+60x30",
        )],
    ),
    (
        "EgressProxyErrors",
        30,
        &[
            (
                "egress_proxy_requests_total",
                "protocol=\"http\",response_code_class=\"5xx\"",
                "0+10x30",
                "0+30x30",
            ),
            (
                "egress_proxy_requests_total",
                "protocol=\"http\",response_code_class=\"2xx\"",
                "0+90x30",
                "0+70x30",
            ),
            (
                "egress_proxy_requests_total",
                "protocol=\"tls\",response_code_class=\"none\"",
                "0+900x30",
                "0+900x30",
            ),
        ],
    ),
    (
        "EgressAccessLogLost",
        30,
        &[(
            "egress_access_log_lines_total",
            "result=\"lost\"",
            "9x30",
            "0+1x30",
        )],
    ),
    (
        "EgressDescriptorsNearlyUsed",
        20,
        &[
            ("process_open_fds", "", "80x20", "90x20"),
            ("process_max_fds", "", "100x20", "100x20"),
            (
                "egress_build_info",
                "version=\"1\",abi=\"1\"",
                "1x20",
                "1x20",
            ),
        ],
    ),
];
