//! What must not look ready: a gate that is closed where no workload is, that goes with its agent,
//! or that no redirected flow gets through.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::time::Duration;

use egress_tests::agent::{self, Agent};
use egress_tests::cgroup::Cgroup;
use egress_tests::place::Place;
use egress_tests::{Lab, LabOptions, pinned, wait_until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
/// A workload's pod as the kubelet names it.
const POD: &str = "pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn spawn(lab: &Lab, place: &Place<'_>, more: &[&str]) -> Agent {
    let mut arguments = lab.agent_arguments();
    arguments.extend(more.iter().map(Into::into));
    Agent::spawn(place, &agent::binary().unwrap(), &arguments).unwrap()
}

/// What `status` says, with its exit code.
fn status(lab: &Lab) -> (i32, Value) {
    let (socket, pins) = (shown(&lab.admin_socket()), shown(lab.bpf_dir()));
    let told = lab
        .verb(&[
            "status",
            "-o",
            "json",
            "--admin-socket",
            &socket,
            "--bpf-dir",
            &pins,
        ])
        .unwrap();
    (
        told.exit,
        serde_json::from_str(&told.stdout).unwrap_or_default(),
    )
}

fn wait_status(lab: &Lab, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = wait_until(what, SOON, || {
        last = status(lab).1;
        fits(&last).then(|| last.clone())
    });
    found.unwrap_or_else(|e| panic!("{e}: {last}"))
}

fn not_ready(lab: &Lab, why: &str) -> String {
    let status = wait_status(lab, why, |s| {
        s["trouble"].as_str().is_some_and(|t| t.contains(why))
    });
    assert_eq!(status["ready"], false, "{status}");
    status["trouble"].as_str().unwrap().to_owned()
}

#[test]
fn a_root_without_workloads_is_closed_and_not_ready_until_one_comes() {
    let empty = Cgroup::new().unwrap();
    let flag = shown(empty.path());
    let lab = Lab::without_agent(LabOptions::flags(&["--cgroup", &flag])).unwrap();
    let agent = spawn(&lab, &lab.agent_place(), &["--cgroup", &flag]);
    not_ready(&lab, "no workload is below");
    let _first = empty.child("first").unwrap();
    wait_status(&lab, "the first workload makes it ready", |s| {
        s["ready"] == true
    });
    drop(agent);
}

#[test]
fn an_agent_that_is_a_pod_outside_its_roots_is_not_ready_and_names_the_pods_root() {
    let lab = Lab::without_agent(LabOptions::default()).unwrap();
    let node = Cgroup::new().unwrap();
    let pods = node.child("kubepods").unwrap();
    let class = pods.child("burstable").unwrap();
    let pod = class.child(POD).unwrap();
    let container = pod.child(&"a".repeat(64)).unwrap();
    let place = Place {
        cgroup: Some(&container),
        ..lab.agent_place()
    };
    let agent = spawn(&lab, &place, &[]);
    let why = not_ready(&lab, "started as a pod");
    let hint = format!("cgroups: [{}]", shown(pods.path()));
    assert!(why.contains(&hint) && !why.contains("mkdir"), "{why}");
    drop(agent);
    drop((container, pod, class, pods));
}

#[test]
fn pins_that_go_with_the_agents_mounts_are_not_ready() {
    let lab = Lab::without_agent(LabOptions::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut words = lab.agent_arguments();
    let at = words.iter().position(|w| w == "--bpf-dir").unwrap();
    words[at + 1] = dir.path().into();
    let mut command = lab.agent_place().command("unshare").unwrap();
    command.args(["--mount", "--propagation", "private"]);
    command.arg(agent::binary().unwrap()).args(words);
    let agent = egress_tests::child::Guarded::spawn(&mut command).unwrap();
    let why = not_ready(&lab, "mounted for the agent alone");
    assert!(why.contains("opens when the agent ends"), "{why}");
    drop(agent);
}

/// The kernel redirects to no listener of this agent.
#[test]
fn an_agent_that_redirected_flows_do_not_reach_is_not_ready() {
    let lab = Lab::start_with(LabOptions::flags(&["--canary-interval", "1s"])).unwrap();
    let netns = pinned::proxy_namespaces(lab.bpf_dir()).unwrap();
    for cookie in netns {
        pinned::forget_proxy(lab.bpf_dir(), cookie).unwrap();
    }
    let why = not_ready(&lab, "redirected connect");
    assert!(why.contains("listener of this agent"), "{why}");
}
