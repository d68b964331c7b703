//! The agent restarted and replaced under load: how long listed HTTP is denied, and what happens to open connections.
//!
//! `EGRESS_TAKEOVER_NAMES` is the number of names in the rules (300 if not set; published figures are for 10 000).

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::agent::{self, Agent};
use egress_tests::cgroup::Cgroup;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::pods::Pods;
use egress_tests::readiness::spawn;
use egress_tests::rules::{GOOGLE, HTTPBIN};
use egress_tests::{Background, Lab, Session, wait_until};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::Signal;
use serde_json::Value;
use std::ffi::OsString;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(20);

/// How long listed HTTP may be denied while two agents overlap, in milliseconds.
const DENIED: u64 = 200;
/// The same from the end of one agent until the next listens, which includes the start of a process on a machine that
/// runs other tests. A bench has the figure.
const STARTS: u64 = 1000;

fn names() -> usize {
    std::env::var("EGRESS_TAKEOVER_NAMES").map_or(300, |n| n.parse().unwrap())
}

/// A lab with the given number of services, in addition to those that the test uses.
fn lab() -> Lab {
    let lab = Lab::start().unwrap();
    let service = |n: usize| {
        let name = format!("n{n}.example");
        lab.dns
            .set(&name, &[[10, 1, (n >> 8) as u8, n as u8].into()], 300);
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: n{n}}}\n\
             spec: {{hosts: [{name}], ports: [{{number: 80, name: http, protocol: HTTP}}], resolution: DNS}}\n"
        )
    };
    let many: String = (0..names()).map(service).collect();
    lab.write_rules("many.yaml", &many).unwrap();
    lab.write_rules("google.yaml", GOOGLE).unwrap();
    lab.write_rules("httpbin.yaml", HTTPBIN).unwrap();
    wait_until("the rules are in force", Duration::from_mins(2), || {
        let all = lab.status().ok()?["rules"]["objects"].as_u64()? >= names() as u64 + 2;
        let answers = |url: &str| Some(lab.curl(&[url]).ok()?.code == 200);
        (all && answers("http://httpbin.org/get")? && answers("https://www.google.com/")?)
            .then_some(())
    })
    .unwrap();
    // The next agent needs the leases of all names.
    wait_until("the leases are written", SOON, || {
        let file = lab.admin_socket().with_extension("leases");
        let text = std::fs::read_to_string(file).ok()?;
        text.contains(&format!("n{}.example ", names() - 1))
            .then_some(())
    })
    .unwrap();
    lab
}

/// The load while the agent is replaced.
struct Load {
    prober: Background,
    leaks: Session,
    slow: Background,
}

impl Load {
    fn start(lab: &Lab) -> Self {
        Self::start_in(lab, &lab.client_place())
    }

    /// Starts it with clients in this place.
    fn start_in(lab: &Lab, place: &Place<'_>) -> Self {
        let to = SocketAddr::new(v4(host::HTTPBIN), 80).to_string();
        let mut command = place.command(agent::beside("prober").unwrap()).unwrap();
        command.args([&to, "httpbin.org"]);
        let prober = Background::start(command).unwrap();
        let unlisted = SocketAddr::new(v4(host::BYSTANDER), 443);
        let leaks = Session::connects(place, unlisted).unwrap();
        // TLS, with a response that takes two seconds.
        let mut command = place.command("curl").unwrap();
        let authority = lab.authority().path().display().to_string();
        let shown = "{\"code\": %{http_code}, \"exit\": %{exitcode}}";
        command.args([
            "-q",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            shown,
            "--cacert",
            &authority,
        ]);
        command.arg("https://www.google.com/delay/2");
        let before = lab.google.requests().len();
        let slow = Background::start(command).unwrap();
        wait_until("the TLS request arrived", SOON, || {
            (lab.google.requests().len() > before).then_some(())
        })
        .unwrap();
        Self {
            prober,
            leaks,
            slow,
        }
    }

    /// Ends it, and checks the results against the promises.
    fn assert_served(self, lab: &Lab, how: &str, limit: u64) -> Value {
        let slow = self.slow.end().unwrap();
        std::thread::sleep(Duration::from_millis(300));
        let told = self.prober.end().unwrap();
        println!("{how}, {} names: {told}", names());
        assert_eq!(slow["code"], 200, "TLS, {how}: {slow}");
        assert!(told["fresh"]["ok"].as_u64().unwrap() > 50, "{how}: {told}");
        let denied = told["fresh"]["deniedMs"].as_u64().unwrap();
        assert!(denied <= limit, "{how}: denied for {denied} ms: {told}");
        assert_eq!(told["kept"]["cut"], 0, "{how}: {told}");
        let leaks = self.leaks.tally().unwrap();
        assert!(leaks.all_denied(50), "{how}: {leaks:?}");
        assert_eq!(lab.bystander.connections(), 0, "a leak, seen from outside");
        told
    }
}

/// Waits until `next` serves in place of the lab's agent, which ends.
fn take_over(lab: &mut Lab, mut next: Agent) {
    next.wait_ready().unwrap();
    end_of(lab.swap_agent(next).unwrap());
}

fn end_of(mut old: Agent) {
    let ended = old.wait_end(SOON).unwrap();
    assert!(ended.success(), "{ended}");
}

#[test]
fn a_successor_started_at_the_signal_takes_over_without_a_gap() {
    let mut lab = lab();
    let load = Load::start(&lab);
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    let next = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    take_over(&mut lab, next);
    load.assert_served(&lab, "SIGTERM and a start at once", DENIED);
}

#[test]
fn a_successor_that_waits_takes_over_without_a_gap() {
    let mut lab = lab();
    let load = Load::start(&lab);
    let next = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    // The next agent waits for the lock now or soon. In both cases both agents run.
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    take_over(&mut lab, next);
    load.assert_served(&lab, "a rolling update", DENIED);
}

#[test]
fn a_restart_one_after_the_other_is_denied_for_a_moment_only() {
    let mut lab = lab();
    let load = Load::start(&lab);
    let began = Instant::now();
    lab.agent().unwrap().terminate().unwrap();
    println!("ended after {:?}", began.elapsed());
    lab.start_agent().unwrap();
    load.assert_served(&lab, "a stop and a start", STARTS);
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
        .map(|p| Load::start_in(&lab, &p.place()))
        .collect();
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    let next = spawn(&lab, &lab.agent_place(), &[]).unwrap();
    take_over(&mut lab, next);
    for load in loads {
        load.assert_served(&lab, "a pod, SIGTERM and a start at once", DENIED);
    }
}

#[test]
fn a_killed_agent_is_back_in_a_moment() {
    let mut lab = lab();
    let load = Load::start(&lab);
    lab.agent().unwrap().kill().unwrap();
    lab.start_agent().unwrap();
    let told = load.prober.end().unwrap();
    println!("kill -9, {} names: {told}", names());
    let denied = told["fresh"]["deniedMs"].as_u64().unwrap();
    assert!(denied <= STARTS, "denied for {denied} ms: {told}");
    assert!(load.leaks.tally().unwrap().all_denied(50));
    // A running request ends with its proxy.
    drop(load.slow);
}

#[test]
fn a_standby_waits_for_an_agent_that_was_not_told_to_stop() {
    let mut lab = lab();
    let mut next = spawn(&lab, &lab.agent_place(), &["--standby"]).unwrap();
    let waits = |line: &str| line.contains("standby: waiting");
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
    let load = Load::start(&lab);
    lab.agent().unwrap().signal(Signal::TERM).unwrap();
    take_over(&mut lab, next);
    load.assert_served(&lab, "a standby", DENIED);
}

#[test]
fn a_successor_that_dies_before_it_takes_over_leaves_the_old_agent_serving() {
    let mut lab = lab();
    let load = Load::start(&lab);
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
    load.assert_served(&lab, "a successor died", DENIED);
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

    let load = Load::start(&lab);
    lab.agent().unwrap().terminate().unwrap();
    // No agent serves, and a connection waits.
    let to = SocketAddr::new(v4(host::HTTPBIN), 80);
    assert!(lab.attempt("tcp", to).unwrap().passed());
    let mut second = as_service(&lab, &path, &sockets);
    drop(sockets);
    second.wait_ready().unwrap();
    lab.swap_agent(second).unwrap();
    assert_eq!(kept(&manager).len(), 2, "kept anew");
    let told = load.assert_served(&lab, "a restart by a service manager", DENIED);
    assert_eq!(told["fresh"]["deniedMs"], 0, "{told}");
}
