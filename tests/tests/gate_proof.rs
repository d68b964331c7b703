//! The canary's expectation is what the policy of its root does with an unlisted destination.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::{Lab, LabOptions, wait_until};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const ALLOW_ANY: &str = "apiVersion: networking.istio.io/v1\nkind: Sidecar\n\
    metadata: {name: default, namespace: istio-system}\n\
    spec: {outboundTrafficPolicy: {mode: ALLOW_ANY}}\n";

fn lab(flags: &[&str]) -> Lab {
    let flags = [&["--canary-interval", "1s"], flags].concat();
    Lab::start_with(LabOptions::flags(&flags)).unwrap()
}

fn count(lab: &Lab, counter: &str) -> u64 {
    lab.status().unwrap()["counters"][counter].as_u64().unwrap()
}

/// Waits for two more canaries of both families. The agent must be ready all the time.
fn proven_by(lab: &Lab, counter: &str) {
    let before = count(lab, counter);
    wait_until("two canaries", SOON, || {
        let status = lab.status().ok()?;
        assert_eq!(status["ready"], true, "{status}");
        (count(lab, counter) >= before + 4).then_some(())
    })
    .unwrap();
}

#[test]
fn a_workload_that_fits_every_cgroup_is_no_canary() {
    proven_by(
        &lab(&["--workload", "{cgroup: '*', mode: audit}"]),
        "denied",
    );
}

#[test]
fn a_root_that_is_audited_is_proven_by_what_it_records() {
    proven_by(
        &lab(&["--workload", "{cgroup: '**', mode: audit}"]),
        "wouldDeny",
    );
    let audit_of_all = [
        "--mode",
        "audit",
        "--workload",
        "{cgroup: ., mode: enforce}",
    ];
    proven_by(&lab(&audit_of_all), "denied");
}

#[test]
fn rules_that_let_everything_pass_are_no_trouble_and_neither_is_their_end() {
    let lab = lab(&[]);
    proven_by(&lab, "denied");
    lab.rules("any.yaml", ALLOW_ANY).unwrap();
    proven_by(&lab, "allowed");
    lab.remove_rules("any.yaml").unwrap();
    proven_by(&lab, "denied");
}
