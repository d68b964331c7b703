//! The agent restarted and replaced under load: how long listed HTTP is denied, and what happens to open connections.
//!
//! `EGRESS_TAKEOVER_NAMES` is the number of names in the rules (300 if not set; published figures are for 10 000).

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent::{self, Agent};
use egress_tests::cgroup::Cgroup;
use egress_tests::hosts::Fault;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::pods::Pods;
use egress_tests::probe::Session;
use egress_tests::readiness::spawn;
use egress_tests::rules::ECHO;
use egress_tests::takeover::{self, Load, Noticed, SOON};
use egress_tests::{Background, Lab, LabOptions, wait_until};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;
use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long listed HTTP may be denied while two agents overlap, in milliseconds.
const DENIED: u64 = 200;
/// The same from the end of one agent until the next listens, which includes the start of a process on a machine that
/// runs other tests. A bench has the figure.
const STARTS: u64 = 1000;

fn names() -> usize {
    std::env::var("EGRESS_TAKEOVER_NAMES").map_or(300, |n| n.parse().unwrap())
}

/// A lab with the load's hosts and that many other names in its rules.
fn lab() -> Lab {
    let lab = Lab::start().unwrap();
    takeover::list(&lab, names()).unwrap();
    lab
}

/// Ends the load, and checks what its clients noticed against the promises.
fn assert_served(load: Load, lab: &Lab, how: &str, limit: u64) -> Noticed {
    let noticed = load.end(lab).unwrap();
    println!("{how}, {} names: {noticed:?}", names());
    assert_eq!(noticed.tls, 200, "TLS, {how}: {noticed:?}");
    assert!(
        noticed.count("/fresh/ok").unwrap() > 50,
        "{how}: {noticed:?}"
    );
    let denied = noticed.denied_for().unwrap();
    assert!(
        denied <= Duration::from_millis(limit),
        "{how}: denied for {denied:?}: {noticed:?}"
    );
    assert_eq!(noticed.count("/kept/cut").unwrap(), 0, "{how}: {noticed:?}");
    assert!(noticed.nothing_leaked(), "{how}: {noticed:?}");
    noticed
}

/// Waits until `next` serves in place of the lab's agent, which ends.
fn take_over(lab: &mut Lab, mut next: Agent) {
    next.wait_ready().unwrap();
    end_of(lab.swap_agent(next).unwrap());
}

/// Whether this line of a log says that a standby waits.
fn waits(line: &str) -> bool {
    line.contains("standby: waiting")
}

fn end_of(mut old: Agent) {
    let ended = old.wait_end(SOON).unwrap();
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_successor_started_at_the_signal_takes_over_without_a_gap() {
    let mut lab = lab();
    let load = Load::start(&lab).unwrap();
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    let next = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    take_over(&mut lab, next);
    assert_served(load, &lab, "SIGTERM and a start at once", DENIED);
}

#[test]
fn a_successor_that_waits_takes_over_without_a_gap() {
    let mut lab = lab();
    let load = Load::start(&lab).unwrap();
    let next = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    // The next agent waits for the lock now or soon. In both cases both agents run.
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    take_over(&mut lab, next);
    assert_served(load, &lab, "a rolling update", DENIED);
}

#[test]
fn a_restart_one_after_the_other_is_denied_for_a_moment_only() {
    let mut lab = lab();
    let load = Load::start(&lab).unwrap();
    let began = Instant::now();
    lab.agent().unwrap().terminate().unwrap();
    println!("ended after {:?}", began.elapsed());
    lab.start_agent().unwrap();
    assert_served(load, &lab, "a stop and a start", STARTS);
}

#[test]
fn pods_in_network_namespaces_of_their_own_are_taken_over_without_a_gap() {
    let mut lab = lab();
    let pods = Pods::on(&lab).unwrap();
    let pods = [(); 3].map(|()| pods.create(&lab).unwrap());
    for pod in &pods {
        wait_until("the pod is served", SOON, || {
            (pod.curl(&["http://httpbin.org/get"]).ok()?.code == 200).then_some(())
        })
        .unwrap();
    }
    let loads: Vec<_> = pods
        .iter()
        .map(|p| Load::start_in(&lab, &p.place()).unwrap())
        .collect();
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    let next = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    take_over(&mut lab, next);
    for load in loads {
        assert_served(load, &lab, "a pod, SIGTERM and a start at once", DENIED);
    }
}

#[test]
fn a_killed_agent_is_back_in_a_moment() {
    let mut lab = lab();
    let load = Load::start(&lab).unwrap();
    lab.agent().unwrap().kill().unwrap();
    lab.start_agent().unwrap();
    // A running request ends with its proxy.
    let noticed = load.end(&lab).unwrap();
    println!("kill -9, {} names: {noticed:?}", names());
    let denied = noticed.denied_for().unwrap();
    assert!(
        denied <= Duration::from_millis(STARTS),
        "denied for {denied:?}: {noticed:?}"
    );
    assert!(noticed.nothing_leaked(), "{noticed:?}");
}

#[test]
fn a_standby_waits_for_an_agent_that_was_not_told_to_stop() {
    let mut lab = lab();
    let mut next = spawn(&lab, &lab.agent_place(), &["--standby"]).unwrap();
    let line = next.wait_line(0, SOON, "it waits", waits).unwrap();
    let pid = lab.agent().unwrap().pid();
    assert!(line.contains(&format!("holder={pid}")), "{line}");
    // Longer than an agent without the flag would wait.
    let end = Instant::now() + Duration::from_secs(4);
    wait_until("the time is over", SOON, || {
        assert!(next.is_running(), "{}", next.tail());
        (Instant::now() > end).then_some(())
    })
    .unwrap();
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
    let load = Load::start(&lab).unwrap();
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    take_over(&mut lab, next);
    assert_served(load, &lab, "a standby", DENIED);
}

#[test]
fn a_standby_takes_over_from_an_agent_that_would_open_the_gate_when_it_is_stopped() {
    let mut lab = Lab::start_with(LabOptions::flags(&["--on-exit=detach"])).unwrap();
    takeover::list(&lab, 0).unwrap();
    let next = spawn(&lab, &lab.agent_place(), &["--standby"]).unwrap();
    next.wait_line(0, SOON, "it waits", waits).unwrap();
    let load = Load::start(&lab).unwrap();
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    take_over(&mut lab, next);
    assert_served(load, &lab, "a standby, onExit: detach", DENIED);
    // Nobody takes over from this one.
    assert!(lab.agent().unwrap().terminate().unwrap().success());
    let unlisted = SocketAddr::new(v4(host::BYSTANDER), 443);
    assert!(lab.attempt("tcp", unlisted).unwrap().passed());
}

#[test]
fn a_standby_keeps_the_gate_closed_if_the_agent_before_it_is_stopped_before_it_has_rules() {
    let mut lab = Lab::start_with(LabOptions::flags(&["--on-exit=detach"])).unwrap();
    takeover::list(&lab, 0).unwrap();
    lab.agent().unwrap().kill().unwrap();
    lab.dns.fail(Fault::Silent);
    lab.write_rules("echo.yaml", ECHO).unwrap();
    let mut first = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    wait_until("it waits for answers", SOON, || {
        let why = lab.status().ok()?["troubles"].to_string();
        why.contains("echo.example").then_some(())
    })
    .unwrap();
    let mut next = spawn(&lab, &lab.agent_place(), &["--standby"]).unwrap();
    next.wait_line(0, SOON, "it waits", waits).unwrap();
    let unlisted = SocketAddr::new(v4(host::BYSTANDER), 443);
    let leaks = Session::connects(&lab.client_place(), unlisted).unwrap();
    first.signal(Signal::TERM).unwrap();
    assert!(first.wait_end(SOON).unwrap().success(), "{}", first.tail());
    lab.dns.fail(Fault::None);
    next.wait_ready().unwrap();
    let tally = leaks.tally().unwrap();
    assert!(tally.all_denied(50), "{tally:?}");
    assert!(!first.tail().contains("detached"), "{}", first.tail());
    drop(lab.swap_agent(next));
}

#[test]
fn a_successor_that_dies_before_it_takes_over_leaves_the_old_agent_serving() {
    let mut lab = lab();
    let load = Load::start(&lab).unwrap();
    let old = lab.agent().unwrap();
    old.signal(Signal::TERM).unwrap();
    let mut next = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    let hands = |line: &str| line.contains("handing over to another agent");
    let old = lab.agent().unwrap();
    old.wait_line(0, SOON, "it hands over", hands).unwrap();
    next.kill().unwrap();
    let mut third = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    third.wait_ready().unwrap();
    let old = lab.swap_agent(third).unwrap();
    let said = old.tail();
    assert!(said.contains("ended before it took over"), "{said}");
    end_of(old);
    assert_served(load, &lab, "a successor died", DENIED);
}

#[test]
fn a_successor_that_is_late_still_makes_the_old_agent_stop() {
    let mut lab = Lab::start_with(LabOptions::flags(&["--drain-deadline=1m"])).unwrap();
    takeover::list(&lab, 0).unwrap();
    // The drain waits for this request, which ends with the client's input.
    let mut upload = lab.command("curl").unwrap();
    upload.args(["-s", "-T", "-", "http://httpbin.org/sink"]);
    let upload = Background::start(upload).unwrap();
    wait_until("its request is at the origin", SOON, || {
        let use_of = lab.status().ok()?["proxyUse"]["connections"]["used"].as_u64();
        (use_of? > 0).then_some(())
    })
    .unwrap();
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    let mut next = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    let old = lab.agent().unwrap();
    let says = |what: &'static str| move |line: &str| line.contains(what);
    let hands = says("handing over to another agent");
    old.wait_line(0, SOON, "it hands over", hands).unwrap();
    next.signal(Signal::STOP).unwrap();
    let waits = says("the next agent is not ready yet");
    old.wait_line(0, SOON, "it does not wait longer", waits)
        .unwrap();
    next.signal(Signal::CONT).unwrap();
    next.wait_ready().unwrap();
    let stops = says("another agent took over");
    old.wait_line(0, SOON, "it stops accepting", stops).unwrap();
    assert!(old.is_running(), "the request is on its way");
    drop(upload);
    end_of(lab.swap_agent(next).unwrap());
}

#[test]
fn an_agent_that_is_asked_to_stop_while_it_waits_for_dns_ends_at_once() {
    let mut lab = lab();
    lab.agent().unwrap().terminate().unwrap();
    // A new name, which no lease of the former agent answers.
    lab.dns.fail(Fault::Silent);
    lab.write_rules("echo.yaml", ECHO).unwrap();
    let mut next = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    wait_until("it waits for answers", SOON, || {
        let status = lab.status().ok()?;
        let why = status["troubles"].to_string();
        why.contains("echo.example").then_some(())
    })
    .unwrap();
    next.signal(Signal::TERM).unwrap();
    // Shorter than the wait.
    let ended = next.wait_end(Duration::from_secs(2)).unwrap();
    assert!(ended.success(), "{ended}: {}", next.tail());
    lab.dns.fail(Fault::None);
    lab.start_agent().unwrap();
    assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
}

#[test]
fn a_successor_in_another_cgroup_finds_the_origins_of_flows_to_the_listeners_that_it_took_over() {
    let mut lab = lab();
    let other = Cgroup::new().unwrap();
    let own = lab
        .agent_place()
        .cgroup
        .unwrap()
        .path()
        .as_os_str()
        .to_owned();
    let mut arguments = lab.agent_arguments();
    for argument in &mut arguments {
        if *argument == own {
            *argument = other.path().into();
        }
    }
    let place = Place {
        cgroup: Some(&other),
        ..lab.agent_place()
    };
    let next = Agent::spawn(&place, &agent::binary().unwrap(), &arguments).unwrap();
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    take_over(&mut lab, next);
    for _ in 0..20 {
        assert_eq!(lab.curl(&["http://httpbin.org/get"]).unwrap().code, 200);
    }
    assert_eq!(lab.status().unwrap()["ready"], true);
    lab.agent().unwrap().terminate().unwrap();
    drop(lab);
}

/// Starts an agent as a service manager does: with the address for its messages and the kept sockets.
fn as_service(lab: &Lab, notify: &Path, kept: &[OwnedFd]) -> Agent {
    // Numbers that neither the shell nor the test uses otherwise. They are closed again below.
    let numbered: Vec<OwnedFd> = (200..)
        .zip(kept)
        .map(|(number, socket)| {
            let copy = rustix::io::fcntl_dupfd_cloexec(socket, number).unwrap();
            rustix::io::fcntl_setfd(&copy, rustix::io::FdFlags::empty()).unwrap();
            copy
        })
        .collect();
    let moved = (3..).zip(&numbered).map(|(number, socket)| {
        let from = socket.as_raw_fd();
        format!("exec {number}<&{from} {from}<&-; ")
    });
    let script = format!(
        "{}export NOTIFY_SOCKET={} LISTEN_PID=$$ LISTEN_FDS={}; exec \"$0\" \"$@\"",
        moved.collect::<String>(),
        notify.display(),
        kept.len()
    );
    let mut arguments: Vec<OsString> = vec!["-c".into(), script.into()];
    arguments.push(agent::binary().unwrap().into());
    arguments.extend(lab.agent_arguments());
    Agent::spawn(&lab.agent_place(), Path::new("/bin/bash"), &arguments).unwrap()
}

/// The sockets that a service manager would have kept by now.
fn kept(manager: &UnixDatagram) -> Vec<OwnedFd> {
    let mut all = Vec::new();
    manager.set_nonblocking(true).unwrap();
    let mut text = [0; 256];
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut text)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let Ok(read) = recvmsg(manager, &mut parts, &mut control, flags) else {
            return all;
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sockets) = message {
                all.extend(sockets);
            }
        }
        if text[..read.bytes].starts_with(b"FDSTOREREMOVE=1\nFDNAME=proxy-") {
            all.clear();
        }
    }
}

#[test]
fn a_service_manager_that_keeps_the_listeners_has_nothing_denied_between_two_agents() {
    let mut lab = lab();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    lab.agent().unwrap().terminate().unwrap();
    let mut first = as_service(&lab, &path, &[]);
    first.wait_ready().unwrap();
    drop(lab.swap_agent(first).unwrap());
    let sockets = kept(&manager);
    assert_eq!(sockets.len(), 2, "IPv4 and IPv6");

    let load = Load::start(&lab).unwrap();
    lab.agent().unwrap().terminate().unwrap();
    // No agent serves, and a connection waits.
    let to = SocketAddr::new(v4(host::HTTPBIN), 80);
    assert!(lab.attempt("tcp", to).unwrap().passed());
    let mut second = as_service(&lab, &path, &sockets);
    drop(sockets);
    second.wait_ready().unwrap();
    lab.swap_agent(second).unwrap();
    assert_eq!(kept(&manager).len(), 2, "kept anew");
    let noticed = assert_served(load, &lab, "a restart by a service manager", DENIED);
    assert_eq!(noticed.denied_for().unwrap(), Duration::ZERO, "{noticed:?}");
}
