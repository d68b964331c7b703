//! Gates that must not be reported as ready: one around no workload, one that ends with its agent, and one whose
//! redirected flows do not arrive.

use egress_tests::agent;
use egress_tests::cgroup::Cgroup;
use egress_tests::place::Place;
use egress_tests::readiness::{not_ready, spawn, status, wait_status};
use egress_tests::{Lab, LabOptions, pinned};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use std::fs;
use std::path::Path;

/// A pod's cgroup name, as the kubelet makes it.
const POD: &str = "pod0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_root_without_workloads_is_closed_and_not_ready_until_one_comes() {
    let empty = Cgroup::new().unwrap();
    let flag = shown(empty.path());
    let lab = Lab::without_agent(LabOptions::flags(&["--cgroup", &flag])).unwrap();
    let agent = spawn(&lab, &lab.agent_place(), &["--cgroup", &flag]).unwrap();
    not_ready(&lab, "no workload is below").unwrap();
    let _first = empty.child("first").unwrap();
    wait_status(&lab, "the first workload makes it ready", |s| {
        s["ready"] == true
    })
    .unwrap();
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
    let agent = spawn(&lab, &place, &[]).unwrap();
    let why = not_ready(&lab, "started as a pod").unwrap();
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
    let why = not_ready(&lab, "only the agent has the BPF file system").unwrap();
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
    let why = not_ready(&lab, "redirected connect").unwrap();
    assert!(why.contains("listener of this agent"), "{why}");
}

/// The agent's free descriptors: fewer than it needs for operation, but enough to answer `status`.
const LEFT: u64 = 8;

#[test]
fn an_agent_that_runs_out_of_descriptors_is_not_ready_until_it_has_some_again() {
    let mut lab = Lab::start_with(LabOptions::flags(&["--canary-interval", "1s"])).unwrap();
    let _workload = lab.workloads().child("first").unwrap();
    wait_status(&lab, "ready at first", |s| s["ready"] == true).unwrap();
    let pid = lab.agent().unwrap().pid();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64;
    let agent = Pid::from_raw(pid.cast_signed());
    let limited = |current| {
        let limit = Rlimit {
            current,
            ..getrlimit(Resource::Nofile)
        };
        prlimit(agent, Resource::Nofile, limit).unwrap()
    };
    let before = limited(Some(open + LEFT));
    let why = not_ready(&lab, "descriptors are open").unwrap();
    let limit = format!("of {} descriptors", open + LEFT);
    assert!(
        why.contains(&limit) && why.contains("LimitNOFILE"),
        "which part, and what to do: {why}"
    );
    assert_ne!(status(&lab).unwrap().0, 0, "`status` says it by its code");
    limited(before.current);
    wait_status(&lab, "ready again", |s| s["ready"] == true).unwrap();
}
