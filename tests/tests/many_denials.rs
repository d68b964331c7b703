//! A workload that dials random destinations delays only the agent's log, not rules or new pods.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::child::Guarded;
use egress_tests::lab::{LabOptions, host, v4};
use egress_tests::{Lab, load, pinned, readiness, wait_until};
use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

/// Different unlisted destinations in a second.
const RATE: u64 = 200;
const SECONDS: u64 = 6;
const SOON: Duration = Duration::from_secs(5);
/// The most inputs of the engine meanwhile: for the pod, the rule, the names, the scans and the requests of this test.
const INPUTS: u64 = 60;

const RULE: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: echo}
spec:
  hosts: [echo.example]
  resolution: STATIC
  ports: [{number: 7, name: tcp, protocol: TCP}]
  endpoints: [{address: 198.51.100.30}]
";

fn number(lab: &Lab, pointer: &str) -> u64 {
    readiness::number(&lab.status().unwrap(), pointer).unwrap()
}

#[test]
fn a_denial_is_nothing_to_the_engine_which_takes_pods_and_rules_meanwhile() {
    let flags = ["--workload", "{cgroup: pod-*, namespace: pods}"];
    let lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    let counts = || (number(&lab, "/rules/events"), number(&lab, "/rules/inputs"));
    let before = counts();
    let (rate, seconds) = (RATE.to_string(), SECONDS.to_string());
    let flood = ["flood", "--rate", &rate, "--seconds", &seconds];
    let flood = [&flood[..], &["--spread", "--stream"]].concat();
    let mut command = load::command(&lab.client_place(), &flood).unwrap();
    let mut flood = Guarded::spawn(command.stdout(Stdio::null())).unwrap();

    let pod = lab.workloads().path().join("pod-new");
    fs::create_dir(&pod).unwrap();
    wait_until("the pod is governed", SOON, || {
        (pinned::owners(lab.bpf_dir()).unwrap() == 1).then_some(())
    })
    .unwrap();
    lab.rules("echo.yaml", RULE).unwrap();
    let answer = lab
        .attempt("tcp", SocketAddr::new(v4(host::ECHO), 7))
        .unwrap();
    assert!(!answer.denied(), "{answer:?}");

    assert!(flood.wait().unwrap().success());
    let wanted = RATE * SECONDS / 2;
    wait_until("the denials are read", SOON, || {
        (number(&lab, "/rules/events") - before.0 >= wanted).then_some(())
    })
    .unwrap();
    let (events, inputs) = counts();
    let (events, inputs) = (events - before.0, inputs - before.1);
    println!("{events} denials, {inputs} inputs of the engine");
    assert!(inputs < INPUTS, "{inputs} inputs for {events} denials");
    fs::remove_dir(&pod).unwrap();
}
