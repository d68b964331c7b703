//! One agent for each gate: a second one ends with an error and changes nothing, whatever it shares with the first.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent::{self, Agent};
use egress_tests::bpffs::BpfFs;
use egress_tests::lab::{host, v4};
use egress_tests::readiness::spawn;
use egress_tests::rules::HTTPBIN;
use egress_tests::{Lab, pinned};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(10);

fn bystander() -> SocketAddr {
    SocketAddr::new(v4(host::BYSTANDER), 80)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_second_agent_is_refused_and_the_first_is_unharmed() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let second = ["--proxy-port", "15901"];
    let mut second = spawn(&lab, &lab.agent_place(), &second).unwrap();
    let ended = second.wait_end(SOON).unwrap();
    assert_eq!(ended.code(), Some(75), "{}", second.tail());
    let line = second.wait_line(0, SOON, "it says why", |_| true).unwrap();
    let pid = format!("another agent (pid {})", lab.agent().unwrap().pid());
    assert!(line.contains(&pid) && second.tail() == line, "{line}");
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
    assert!(lab.attempt("tcp", bystander()).unwrap().denied());
    assert_eq!(lab.status().unwrap()["ready"], true);
}

/// Starts an agent with other pins around the lab's root or a cgroup below it. Returns its exit code and its line.
fn with_other_pins(lab: &Lab, root: &Path) -> (Option<i32>, String) {
    let pins = BpfFs::mount().unwrap();
    let (dir, root) = (shown(pins.path()), shown(root));
    let flags = [
        "--bpf-dir",
        &dir,
        "--cgroup",
        &root,
        "--proxy-port",
        "15901",
    ];
    let arguments = ["run", "--rules", "/dev/null"].into_iter().chain(flags);
    let arguments: Vec<_> = arguments.map(Into::into).collect();
    let place = lab.agent_place();
    let mut other = Agent::spawn(&place, &agent::binary().unwrap(), &arguments).unwrap();
    let ended = other.wait_end(SOON).unwrap();
    let entries = fs::read_dir(pins.path())
        .unwrap()
        .map(|e| e.unwrap().file_name());
    let left = entries
        .filter(|name| name.to_string_lossy().starts_with("abi-"))
        .count();
    assert_eq!(left, 0, "it pins nothing");
    (ended.code(), other.tail())
}

#[test]
fn a_second_agent_with_other_pins_is_refused_and_the_first_is_unharmed() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let pid = lab.agent().unwrap().pid();
    let pid = format!("another agent (pid {pid}) holds the gate around ");
    let programs = pinned::attached(lab.bpf_dir()).unwrap();
    let below = lab.workloads().child("below").unwrap();
    for root in [lab.workloads().path(), below.path()] {
        let (code, said) = with_other_pins(&lab, root);
        assert_eq!(code, Some(75), "{said}");
        assert!(said.contains(&pid) && said.lines().count() == 1, "{said}");
    }
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
    assert!(lab.attempt("tcp", bystander()).unwrap().denied());
    assert_eq!(pinned::attached(lab.bpf_dir()).unwrap(), programs);
    assert_eq!(lab.status().unwrap()["ready"], true);
    // The pins of a dead agent are a gate too, and only its own successor may adopt them.
    lab.agent().unwrap().kill().unwrap();
    let (code, said) = with_other_pins(&lab, lab.workloads().path());
    assert_eq!(code, Some(75), "{said}");
    assert!(said.contains("another agent left its gate"), "{said}");
    lab.start_agent().unwrap();
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
}

/// While it waits, Kubernetes sees the first agent's answers and may stop it.
#[test]
fn a_standby_that_could_not_run_here_ends_before_the_first_agent_does() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    let programs = pinned::attached(lab.bpf_dir()).unwrap();
    let own = shown(lab.agent_place().cgroup.unwrap().path());
    let inside = shown(&lab.workloads().path().join("agent"));
    let moved = lab.agent_arguments().into_iter().map(|argument| {
        if argument == *own {
            inside.clone().into()
        } else {
            argument
        }
    });
    let with = |flags: &[&str]| {
        let mut arguments = lab.agent_arguments();
        arguments.extend(flags.iter().map(Into::into));
        arguments
    };
    for (arguments, part) in [
        (moved.collect(), "lies in the enforced root"),
        (
            with(&["--dns-ca-certificates", "/nonexistent/ca.pem"]),
            "/nonexistent/ca.pem",
        ),
        (
            with(&[
                "--kubernetes-rules",
                "--kubernetes-node=node-1",
                "--kubeconfig",
                "/nonexistent/config",
            ]),
            "/nonexistent/config",
        ),
    ] {
        let arguments: Vec<_> = arguments.into_iter().chain(["--standby".into()]).collect();
        let mut next =
            Agent::spawn(&lab.agent_place(), &agent::binary().unwrap(), &arguments).unwrap();
        let ended = next.wait_end(SOON).unwrap();
        let said = next.tail();
        assert!(
            !ended.success() && said.contains(part),
            "{part}: {ended}: {said}"
        );
    }
    let next = spawn(&lab, &lab.agent_place(), &["--standby"]).unwrap();
    let tried = |line: &str| line.contains("the programs load on this kernel");
    println!(
        "{}",
        next.wait_line(0, SOON, "it tries the programs", tried)
            .unwrap()
    );
    let waits = |line: &str| line.contains("standby: waiting");
    next.wait_line(0, SOON, "it waits", waits).unwrap();
    assert_eq!(pinned::attached(lab.bpf_dir()).unwrap(), programs);
    assert!(lab.agent().unwrap().is_running());
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
}
