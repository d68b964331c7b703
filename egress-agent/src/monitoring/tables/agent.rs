//! Metrics of the agent itself and of its process.

use crate::monitoring::metric::Metric::Counted;
use crate::monitoring::metric::{Group, counter, gauge};
use egress_ebpf::abi::ABI_VERSION;

/// See the module.
pub const GROUP: Group = Group {
    title: "The agent",
    metrics: &[
        gauge(
            "egress_build_info",
            &["version", "abi"],
            "1. The agent's version, and the version of the types in its BPF maps.",
            |_, out| {
                let abi = ABI_VERSION.to_string();
                let labels = [("version", env!("CARGO_PKG_VERSION")), ("abi", &abi)];
                out.sample(&labels, 1);
            },
        ),
        gauge(
            "egress_status_age_seconds",
            &[],
            "Age of the current values of this scrape. They are gathered at most once a second, and older only while the engine is busy with a large change. No sample, and none of these values, until the engine has answered once.",
            |values, out| {
                if let Some((_, age)) = values.status {
                    out.value(age.as_secs_f64());
                }
            },
        ),
        Counted("egress_engine_inputs_total"),
        counter(
            "process_cpu_seconds_total",
            &[],
            "Processor time of the agent, user and system.",
            |values, out| out.value(values.process.cpu.as_secs_f64()),
        ),
        gauge(
            "process_resident_memory_bytes",
            &[],
            "Resident memory of the agent, rule tables included.",
            |values, out| out.value(values.process.resident),
        ),
        gauge(
            "process_virtual_memory_bytes",
            &[],
            "Virtual memory of the agent.",
            |values, out| out.value(values.process.virtual_memory),
        ),
        gauge(
            "process_open_fds",
            &[],
            "Open descriptors of the agent.",
            |values, out| out.value(values.process.open),
        ),
        gauge(
            "process_max_fds",
            &[],
            "The limit of open descriptors.",
            |values, out| out.value(values.process.limit),
        ),
        gauge(
            "process_threads",
            &[],
            "Threads of the agent.",
            |values, out| out.value(values.process.threads),
        ),
        gauge(
            "process_start_time_seconds",
            &[],
            "When the agent started, in seconds since 1970.",
            |values, out| out.value(values.process.started),
        ),
    ],
};
