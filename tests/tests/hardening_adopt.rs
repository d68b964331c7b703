//! How an agent handles the pins of another agent.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent::{self, Agent};
use egress_tests::cgroup::Cgroup;
use egress_tests::lab::{host, v4};
use egress_tests::{Lab, LabOptions, pinned, wait_until};
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(5);

fn unlisted_is_denied(lab: &Lab) -> bool {
    let to = SocketAddr::new(v4(host::BYSTANDER), 80);
    lab.attempt("tcp", to).unwrap().denied()
}

#[test]
fn pins_of_another_abi_are_refused_and_their_gate_stays_closed() {
    let mut lab = Lab::start().unwrap();
    lab.agent().unwrap().kill().unwrap();
    fs::create_dir(lab.bpf_dir().join("abi-999")).unwrap();
    let mut other = Agent::spawn(
        &lab.agent_place(),
        &agent::binary().unwrap(),
        &lab.agent_arguments(),
    )
    .unwrap();
    let refusal = other.wait_ready().unwrap_err().to_string();
    assert!(refusal.contains("exit status: 64"), "{refusal}");
    assert!(
        refusal.contains("abi-999") && refusal.contains("stays closed"),
        "{refusal}"
    );
    assert!(unlisted_is_denied(&lab));
}

#[test]
fn programs_are_replaced_in_the_links_that_are_there() {
    let mut lab = Lab::start().unwrap();
    let before = pinned::attached(lab.bpf_dir()).unwrap();
    assert!(before.len() > 10, "{before:?}");
    lab.agent().unwrap().kill().unwrap();
    lab.start_agent().unwrap();
    let after = pinned::attached(lab.bpf_dir()).unwrap();
    assert!(before.keys().eq(after.keys()), "{after:?}");
    for (name, now) in after {
        let then = &before[&name];
        assert_eq!((now.pin, now.link), (then.pin, then.link), "{name}");
        assert_ne!(now.program, then.program, "{name} runs the old program");
    }
}

#[test]
fn links_of_a_cgroup_that_is_gone_are_collected_while_the_agent_runs() {
    let extra = Cgroup::new().unwrap();
    let inner = extra.child("workload").unwrap();
    let path = extra.path().to_string_lossy().into_owned();
    let flags = ["--cgroup", &path, "--canary-interval", "1s"];
    let lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    let of_extra = extra.id().unwrap().to_string();
    let there = |lab: &Lab| {
        let all = pinned::links(lab.bpf_dir()).unwrap();
        all.iter().any(|dir| dir.ends_with(&of_extra))
    };
    assert!(there(&lab));
    drop((inner, extra));
    wait_until("its links are gone", SOON, || (!there(&lab)).then_some(())).unwrap();
    assert!(unlisted_is_denied(&lab), "the other root's stay");
}
