//! The gate from boot on: closed before the agent starts, closed during any start, and closed again after its root is
//! recreated. The agent is ready only while the gate works.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent;
use egress_tests::cgroup::Cgroup;
use egress_tests::client::{self, Finished};
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::probe::Session;
use egress_tests::readiness::{not_ready, spawn, status, wait_status};
use egress_tests::rules::{ECHO, HTTPBIN};
use egress_tests::{Lab, LabOptions, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
/// A destination that bypasses the proxy, listed by address.
const DIRECT: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: direct}
spec:
  hosts: [direct.example]
  addresses: [198.51.100.30]
  ports: [{number: 7, name: tcp, protocol: TCP}]
  resolution: STATIC
  endpoints: [{address: 198.51.100.30}]
";

fn bystander() -> SocketAddr {
    SocketAddr::new(v4(host::BYSTANDER), 80)
}

fn direct() -> SocketAddr {
    SocketAddr::new(v4(host::ECHO), 7)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn close(lab: &Lab, root: &Path, more: &[&str]) -> Finished {
    let (root, pins) = (shown(root), shown(lab.bpf_dir()));
    let mut words = vec!["close", "--cgroup", &root, "--bpf-dir", &pins];
    words.extend(more);
    lab.verb(&words).unwrap()
}

/// Boots from the first instruction of a workload to rules in force, while a prober runs.
fn boot(what: &str, prepare: impl FnOnce(&Lab), more: &[&str]) -> Value {
    let lab = Lab::without_agent(LabOptions::default()).unwrap();
    lab.write_rules("direct.yaml", DIRECT).unwrap();
    prepare(&lab);
    let closed = close(&lab, lab.workloads().path(), &[]);
    assert_eq!(closed.exit, 0, "{closed:?}");
    let prober = Session::connects(&lab.client_place(), bystander()).unwrap();
    assert!(lab.attempt("tcp-echo", direct()).unwrap().denied());
    let begin = Instant::now();
    let agent = spawn(&lab, &lab.agent_place(), more).unwrap();
    wait_until("what is valid is in force", SOON, || {
        lab.attempt("tcp-echo", direct())
            .unwrap()
            .passed()
            .then_some(())
    })
    .unwrap_or_else(|e| panic!("{what}: {e}\n{}", agent.tail()));
    let took = begin.elapsed();
    let status = wait_status(&lab, "status answers", |s| s["closed"] == true).unwrap();
    println!("boot, {what}: in force after {} ms", took.as_millis());
    let tally = prober.tally().unwrap();
    println!("boot, {what}: {tally:?}");
    assert!(tally.all_denied(50), "{what}: {tally:?}");
    assert_eq!(lab.bystander.connections(), 0, "{what}: a leak");
    status
}

#[test]
fn a_gate_that_was_closed_before_lets_nothing_out_while_the_agent_starts() {
    boot("nothing wrong", |_| (), &[]);
}

#[test]
fn a_silent_resolver_delays_no_rule_that_needs_no_name() {
    let rules = |lab: &Lab| lab.write_rules("httpbin.yaml", HTTPBIN).unwrap();
    // Nothing answers there.
    let status = boot("no DNS", rules, &["--dns-server", "198.51.100.54"]);
    assert!(status.is_object(), "{status}");
}

fn names(status: &Value, part: &str) {
    let problems = status["rules"]["problems"].to_string();
    assert!(problems.contains(part), "{part}: {status}");
}

#[test]
fn an_invalid_object_and_an_unreadable_file_keep_no_other_rule_out() {
    let broken = |lab: &Lab| {
        let bad = DIRECT
            .replace("direct", "bad")
            .replace("number: 7", "number: {}");
        lab.write_rules("invalid.yaml", &bad).unwrap();
        fs::write(lab.rules_dir().join("latin.yaml"), [0xff, 0xfe]).unwrap();
    };
    let status = boot("an invalid object, an unreadable file", broken, &[]);
    names(&status, "invalid.yaml");
    names(&status, "latin.yaml");
}

#[test]
fn a_missing_rules_folder_keeps_no_other_rule_out() {
    let status = boot(
        "a missing folder",
        |_| (),
        &["--rules", "/nonexistent/rules"],
    );
    names(&status, "/nonexistent/rules");
}

#[test]
fn the_agent_closes_a_root_before_it_finds_that_its_settings_are_wrong() {
    let lab = Lab::without_agent(LabOptions::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    let (root, pins) = (shown(lab.workloads().path()), shown(lab.bpf_dir()));
    for (text, part) in [
        ("proxyPort: many", "proxyPort"),
        ("prooxyPort: 1", "prooxyPort"),
        ("rules: []", "no rules"),
    ] {
        fs::write(
            &file,
            format!("cgroups: [{root}]\nbpfDir: {pins}\n{text}\n"),
        )
        .unwrap();
        let told = lab.verb(&["run", "--config", &shown(&file)]).unwrap();
        assert_eq!(told.exit, 64, "{told:?}");
        assert_eq!(told.stderr.lines().count(), 1, "{told:?}");
        assert!(
            told.stderr.contains(part) && told.stderr.contains("closed around"),
            "{told:?}"
        );
        assert!(lab.attempt("tcp", bystander()).unwrap().denied(), "{text}");
        lab.verb(&["detach", "--bpf-dir", &pins]).unwrap();
        assert!(lab.attempt("tcp", bystander()).unwrap().passed());
    }
    fs::write(&file, format!("cgroups: [{root}\n")).unwrap();
    let told = lab.verb(&["run", "--config", &shown(&file)]).unwrap();
    assert!(told.stderr.contains("no gate was closed"), "{told:?}");
    // One root cannot exist. The other is closed nevertheless.
    let more = ["--cgroup", "/nonexistent/cgroup"];
    let mut agent = spawn(&lab, &lab.agent_place(), &more).unwrap();
    assert_eq!(agent.wait_end(SOON).unwrap().code(), Some(64));
    assert!(
        agent.tail().contains("/nonexistent/cgroup"),
        "{}",
        agent.tail()
    );
    assert!(lab.attempt("tcp", bystander()).unwrap().denied());
}

#[test]
fn a_config_file_that_is_a_fifo_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("agent.yaml");
    assert!(
        Command::new("mkfifo")
            .arg(&fifo)
            .status()
            .unwrap()
            .success()
    );
    let mut run = Command::new(agent::binary().unwrap());
    run.args(["run", "--config"]).arg(&fifo);
    let told = client::run(run, SOON).unwrap();
    assert_eq!(told.exit, 64, "{told:?}");
    assert!(told.stderr.contains("not a regular file"), "{told:?}");
    let file = dir.path().join("json.yaml");
    fs::write(&file, "log: {format: json}\nnope: 1\n").unwrap();
    let mut run = Command::new(agent::binary().unwrap());
    run.args(["run", "--config"]).arg(&file);
    let told = client::run(run, SOON).unwrap();
    let line: Value = serde_json::from_str(told.stderr.trim()).unwrap();
    assert!(line["message"].as_str().unwrap().contains("nope"), "{line}");
    assert_eq!((told.exit, &line["level"]), (64, &Value::from("ERROR")));
}

#[test]
fn close_is_for_a_gate_without_an_agent_and_changes_none_that_is_closed() {
    let mut lab = Lab::without_agent(LabOptions::default()).unwrap();
    let absent = lab.workloads().path().join("../later");
    let told = close(&lab, &absent, &[]);
    assert_eq!(told.exit, 1, "{told:?}");
    assert!(
        told.stderr.contains("--create") && !absent.exists(),
        "{told:?}"
    );
    let told = close(&lab, &absent, &["--create"]);
    assert_eq!(told.exit, 0, "{told:?}");
    fs::remove_dir(&absent).unwrap();

    lab.write_rules("echo.yaml", ECHO).unwrap();
    lab.start_agent().unwrap();
    let running = close(&lab, lab.workloads().path(), &[]);
    assert_eq!(running.exit, 0, "{running:?}");
    assert!(lab.attempt("tcp-echo", direct()).unwrap().passed());
    lab.agent().unwrap().kill().unwrap();
    let dead = close(&lab, lab.workloads().path(), &[]);
    assert_eq!(dead.exit, 0, "{dead:?}");
    assert!(
        lab.attempt("tcp-echo", direct()).unwrap().passed(),
        "the rules stay"
    );
}

#[test]
fn a_root_that_comes_again_is_closed_again_at_once() {
    let parent = Cgroup::new().unwrap();
    let root = parent.child("root").unwrap();
    let workload = root.child("workload").unwrap();
    let flag = shown(root.path());
    // No canary runs in this time, so it cannot be what finds the root.
    let flags = ["--cgroup", &flag, "--canary-interval", "1h"];
    let mut lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    drop((workload, root));
    not_ready(&lab, "does not exist").unwrap();
    for round in 0..10 {
        let begin = Instant::now();
        let root = parent.child("root").unwrap();
        let place = Place {
            cgroup: Some(&root),
            ..lab.client_place()
        };
        let prober = Session::connects(&place, bystander()).unwrap();
        let answer = egress_tests::probe::attempt(&place, "tcp", bystander()).unwrap();
        let took = begin.elapsed().as_millis();
        println!("round {round}: denied {} after {took} ms", answer.denied());
        wait_until("it is closed", SOON / 10, || {
            let answer = egress_tests::probe::attempt(&place, "tcp", bystander()).unwrap();
            answer.denied().then_some(())
        })
        .unwrap();
        println!("round {round}: {:?}", prober.tally().unwrap());
        drop(root);
    }
    for line in lab.agent().unwrap().log_since(0) {
        if line.contains("an enforced root appeared") {
            println!("{line}");
        }
    }
}

/// A user who tries the gate must not be cut off at boot.
#[test]
fn close_denies_nothing_if_the_config_audits_all_workloads() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("agent.yaml");
    for (more, denied) in [
        ("mode: audit", false),
        (
            "mode: audit\nworkloads: [{cgroup: a, namespace: b, mode: enforce}]",
            true,
        ),
        ("mode: enforce", true),
    ] {
        let lab = Lab::without_agent(LabOptions::default()).unwrap();
        let (root, pins) = (shown(lab.workloads().path()), shown(lab.bpf_dir()));
        let text = format!("cgroups: [{root}]\nbpfDir: {pins}\n{more}\n");
        fs::write(&file, text).unwrap();
        let told = lab.verb(&["close", "--config", &shown(&file)]).unwrap();
        assert_eq!(told.exit, 0, "{more}: {told:?}");
        assert_eq!(told.stdout, format!("closed: {root}\n"), "{more}");
        let answer = lab.attempt("tcp", bystander()).unwrap();
        assert_eq!(answer.denied(), denied, "{more}: {answer:?}");
    }
}

#[test]
fn close_waits_for_the_running_agent_that_closes_a_root_which_comes_again() {
    let parent = Cgroup::new().unwrap();
    let root = parent.child("root").unwrap();
    let workload = root.child("workload").unwrap();
    let flag = shown(root.path());
    let flags = ["--cgroup", &flag, "--canary-interval", "1h"];
    let mut lab = Lab::start_with(LabOptions::flags(&flags)).unwrap();
    let path = root.path().to_owned();
    drop((workload, root));
    not_ready(&lab, "does not exist").unwrap();
    // It sees the folder late.
    lab.agent().unwrap().signal(Signal::STOP).unwrap();
    let mut command = Command::new(agent::binary().unwrap());
    command.args(["close", "--create", "--cgroup", &flag, "--bpf-dir"]);
    let command = command.arg(lab.bpf_dir()).stdout(Stdio::piped());
    let closing = command.stderr(Stdio::piped()).spawn().unwrap();
    wait_until("the root is there", SOON, || path.exists().then_some(())).unwrap();
    lab.agent().unwrap().signal(Signal::CONT).unwrap();
    let told = closing.wait_with_output().unwrap();
    assert!(told.status.success(), "{told:?}");
    let said = String::from_utf8_lossy(&told.stdout);
    assert!(said.contains("closed by a running agent"), "{said}");
    fs::remove_dir(&path).unwrap();
}

#[test]
fn no_signal_but_those_that_stop_it_ends_the_agent() {
    let mut lab = Lab::start().unwrap();
    lab.rules("httpbin.yaml", HTTPBIN).unwrap();
    for signal in [Signal::USR1, Signal::USR2, Signal::PIPE, Signal::HUP] {
        lab.agent().unwrap().signal(signal).unwrap();
    }
    lab.rules("echo.yaml", ECHO).unwrap();
    assert!(lab.agent().unwrap().is_running());
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
    let log = lab.agent().unwrap().log_since(0).join("\n");
    assert!(log.contains("SIGUSR1") && log.contains("SIGUSR2"), "{log}");
    assert!(lab.agent().unwrap().terminate().unwrap().success());
}

#[test]
fn without_an_agent_status_tells_of_the_gate_that_is_pinned() {
    let mut lab = Lab::start().unwrap();
    let (exit, running) = status(&lab).unwrap();
    assert_eq!(exit, 0, "{running}");
    let build = running["build"].as_str().unwrap();
    assert!(
        build.starts_with(running["version"].as_str().unwrap()),
        "{build}"
    );
    lab.agent().unwrap().kill().unwrap();
    let (exit, told) = status(&lab).unwrap();
    assert_eq!(exit, 69, "{told}");
    assert_eq!(
        (&told["running"], &told["closed"]),
        (&false.into(), &true.into()),
        "{told}"
    );
    assert_eq!(told["roots"][0], shown(lab.workloads().path()), "{told}");
    lab.verb(&["detach", "--bpf-dir", &shown(lab.bpf_dir())])
        .unwrap();
    let (exit, told) = status(&lab).unwrap();
    assert_eq!((exit, &told["closed"]), (69, &false.into()), "{told}");
}

#[test]
fn an_admin_socket_that_was_taken_or_removed_is_made_again() {
    let lab = Lab::without_agent(LabOptions::default()).unwrap();
    fs::create_dir(lab.admin_socket()).unwrap();
    let mut agent = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    agent
        .wait_line(0, SOON, "it says so", |l| {
            l.contains("cannot listen on the admin socket")
        })
        .unwrap();
    fs::remove_dir(lab.admin_socket()).unwrap();
    agent.wait_ready().unwrap();
    wait_status(&lab, "it answers", |s| s["ready"] == true).unwrap();
    fs::remove_file(lab.admin_socket()).unwrap();
    wait_status(&lab, "it answers again", |s| s["ready"] == true).unwrap();
}
