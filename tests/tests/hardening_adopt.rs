//! How an agent handles the pins of another agent.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent::{self, Agent};
use egress_tests::cgroup::Cgroup;
use egress_tests::lab::{host, v4};
use egress_tests::pinned::Attached;
use egress_tests::rules::HTTPBIN;
use egress_tests::{Lab, LabOptions, pinned, wait_until};
use std::collections::BTreeMap;
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

type Links = BTreeMap<String, Attached>;

/// The links after a kill and a start. They are the same ones at each cgroup.
fn links_of_the_next_agent(lab: &mut Lab, before: &Links) -> Links {
    lab.start_agent().unwrap();
    let after = pinned::attached(lab.bpf_dir()).unwrap();
    assert!(before.keys().eq(after.keys()), "{after:?}");
    for (name, now) in &after {
        let then = &before[name];
        assert_eq!((now.pin, now.link), (then.pin, then.link), "{name}");
    }
    assert!(unlisted_is_denied(lab));
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
    after
}

fn lab() -> (Lab, Links) {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let links = pinned::attached(lab.bpf_dir()).unwrap();
    assert!(links.len() > 10, "{links:?}");
    lab.agent().unwrap().kill().unwrap();
    (lab, links)
}

fn all_replaced(before: &Links, after: &Links) {
    for (name, now) in after {
        let then = &before[name];
        assert_ne!(now.program, then.program, "{name} runs the old program");
    }
}

#[test]
fn programs_of_the_same_build_go_on() {
    let (mut lab, before) = lab();
    assert_eq!(links_of_the_next_agent(&mut lab, &before), before);
}

#[test]
fn programs_of_another_build_are_replaced_in_the_links_that_are_there() {
    let (mut lab, before) = lab();
    // What is pinned for another object does not count, whatever it is.
    let [of_object] = &pinned::programs(lab.bpf_dir()).unwrap()[..] else {
        panic!("programs of one object")
    };
    fs::rename(of_object, of_object.with_file_name("another")).unwrap();
    let after = links_of_the_next_agent(&mut lab, &before);
    all_replaced(&before, &after);
    let kept = pinned::programs(lab.bpf_dir()).unwrap();
    assert_eq!(
        kept,
        std::slice::from_ref(of_object),
        "the other object's are removed"
    );
}

#[test]
fn programs_are_loaded_anew_if_a_pin_of_them_is_gone() {
    let (mut lab, before) = lab();
    let of_object = pinned::programs(lab.bpf_dir()).unwrap().remove(0);
    fs::remove_file(of_object.join("connect6")).unwrap();
    let after = links_of_the_next_agent(&mut lab, &before);
    all_replaced(&before, &after);
}

#[test]
fn programs_are_loaded_anew_if_a_map_is_another_one() {
    for name in ["OWNERS", "TABLES", "LISTENERS"] {
        let (mut lab, before) = lab();
        pinned::forget_map(lab.bpf_dir(), name).unwrap();
        let after = links_of_the_next_agent(&mut lab, &before);
        all_replaced(&before, &after);
        // The next one takes these.
        lab.agent().unwrap().kill().unwrap();
        assert_eq!(links_of_the_next_agent(&mut lab, &after), after, "{name}");
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
