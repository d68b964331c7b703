//! Metrics of the gate: closed, ready, and the canaries that prove it.

use crate::config::Mode;
use crate::monitoring::metric::Metric::Counted;
use crate::monitoring::metric::{Group, gauge};
use crate::observe::readiness::Part;

/// See the module.
pub const GROUP: Group = Group {
    title: "The gate",
    metrics: &[
        gauge(
            "egress_ready",
            &[],
            "1 if the agent is ready, as the exit code 0 of `egress-agent status`: the last canaries passed and nothing is wrong.",
            |values, out| out.value(u8::from(values.readiness.ready())),
        ),
        gauge(
            "egress_gate_closed",
            &[],
            "1 if the last canary below each enforced root passed: the kernel denies unlisted destinations there, or does what an auditing policy says.",
            |values, out| out.value(u8::from(values.readiness.closed)),
        ),
        gauge(
            "egress_not_ready",
            &["reason"],
            "1 for each reason why the agent is not ready: gate (not proven closed), roots (an enforced root does not exist), workloads (they are not below the roots), pins (they do not outlive the agent), redirect (a redirected flow does not reach the agent), kubernetes-rules (the API has not listed the rules since the start), dns-answers (first answers are missing), descriptors (few are free), admin-socket, canary-overdue. `/readyz` and `egress-agent status` have the text.",
            |values, out| {
                for part in Part::ALL {
                    let wrong = values.readiness.parts.contains_key(&part);
                    out.sample(&[("reason", part.word())], u8::from(wrong));
                }
                let overdue = values.readiness.overdue || values.readiness.age.is_none();
                out.sample(&[("reason", "canary-overdue")], u8::from(overdue));
            },
        ),
        gauge(
            "egress_canary_last_passed_timestamp_seconds",
            &[],
            "When a canary of the gate last passed below each enforced root, in seconds since 1970. No sample if none has.",
            |values, out| {
                if let Some(age) = values.readiness.age {
                    out.value(values.timestamp(age));
                }
            },
        ),
        Counted("egress_canaries_total"),
        gauge(
            "egress_mode",
            &["mode"],
            "1 for the mode of workloads without a mode of their own: enforce or audit. Under audit nothing is denied.",
            |values, out| {
                let Some((status, _)) = values.status else {
                    return;
                };
                for (word, mode) in [("enforce", Mode::Enforce), ("audit", Mode::Audit)] {
                    out.sample(&[("mode", word)], u8::from(status.rules.mode == mode));
                }
            },
        ),
        gauge(
            "egress_enforced_roots",
            &[],
            "Enforced roots: cgroups below which the gate is closed.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.roots.len());
                }
            },
        ),
        gauge(
            "egress_kernel_gaps",
            &[],
            "Ways out that the running kernel leaves open to workloads with certain capabilities. `egress-agent status` names them.",
            |values, out| {
                if let Some((status, _)) = values.status {
                    out.value(status.kernel.gaps.len());
                }
            },
        ),
    ],
};
