//! A workload forges answers to the agent's own DNS questions. It must not succeed, and must not fill the log.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::background::Background;
use egress_tests::hosts::{Fault, World};
use egress_tests::lab::{LabOptions, host, v4};
use egress_tests::rules::{ECHO, HTTPBIN};
use egress_tests::{Lab, agent, wait_until};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

/// The address of systemd-resolved.
const STUB: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 53);

/// A workload that answers for `echo.example` with the bystander's address.
fn guess(lab: &Lab, bind: &str, source: IpAddr, more: &[&str]) -> Background {
    let mut command = lab
        .command(agent::beside("guess").unwrap().to_str().unwrap())
        .unwrap();
    command.args(["--bind", bind, "--source", &source.to_string()]);
    command.args([
        "--name",
        "echo.example",
        "--address",
        &v4(host::BYSTANDER).to_string(),
    ]);
    command.args(more);
    let guess = Background::start(command).unwrap();
    guess
        .wait_line("the guesser is up", Duration::from_secs(5), |line| {
            line == "up"
        })
        .unwrap();
    guess
}

#[test]
fn a_workload_cannot_answer_for_a_resolver_on_loopback() {
    let lab = Lab::start_with(LabOptions {
        servers: vec![SocketAddr::new(STUB.into(), 53)],
        ..LabOptions::default()
    })
    .unwrap();
    let node = World::start(lab.node()).unwrap();
    let stub = node.dns(&[STUB.into()]).unwrap();
    stub.set("echo.example", &[v4(host::ECHO)], 1);
    // Like a resolver that must ask other servers.
    stub.fail(Fault::Late(Duration::from_millis(100)));
    lab.rules("echo.yaml", ECHO).unwrap();
    let tcp = |last| {
        lab.attempt("tcp", SocketAddr::new(v4(last), 7))
            .unwrap()
            .errno
    };
    wait_until("the name is resolved", Duration::from_secs(10), || {
        tcp(host::ECHO).is_none().then_some(())
    })
    .unwrap();

    let guess = guess(&lab, "127.0.0.99:53", STUB.into(), &[]);
    let start = Instant::now();
    // The host has no such port and refuses, which shows that the gate let the flow out.
    let won = wait_until("a guess was believed", Duration::from_secs(10), || {
        (tcp(host::BYSTANDER) != Some(libc::EPERM)).then(|| start.elapsed())
    });
    let lines = guess.end().unwrap();
    assert!(won.is_err(), "won after {won:?}; {lines:?}");
    assert_eq!(tcp(host::ECHO), None, "the name still leads to its host");
}

/// The most datagrams a second to the ports of the agent's questions.
const RATE: u64 = 100_000;
const GUESSERS: usize = 2;
const SECONDS: u64 = 10;
/// The most log lines a second.
const MOST_LINES: usize = 200;
/// The most processor time during the flood, in per cent of one core, in a debug build.
const MOST_CPU: f64 = 10.0;

/// The agent's processor time while `SECONDS` pass, in per cent of one core.
fn busy(lab: &mut Lab, what: &str) -> f64 {
    let mut cpu = || lab.agent().unwrap().cpu().unwrap();
    let (start, before) = (Instant::now(), cpu());
    wait_until(what, Duration::from_secs(SECONDS + 5), || {
        (start.elapsed() >= Duration::from_secs(SECONDS)).then_some(())
    })
    .unwrap();
    100.0 * cpu().saturating_sub(before).as_secs_f64() / start.elapsed().as_secs_f64()
}

#[test]
fn stray_datagrams_to_the_ports_of_open_questions_cost_neither_lines_nor_a_core() {
    let mut lab = Lab::start().unwrap();
    lab.rules("echo.yaml", ECHO).unwrap();
    let hosts: Vec<_> = (0..64).map(|n| format!("n{n}.example")).collect();
    let more = HTTPBIN
        .replace("httpbin.org", &hosts.join("\n  - "))
        .replace("name: httpbin-ext", "name: more");
    for name in &hosts {
        lab.dns.set(name, &[v4(host::HTTPBIN)], 1);
    }
    lab.rules("more.yaml", &more).unwrap();
    // Every question stays open until it times out.
    lab.dns.fail(Fault::Silent);
    // Names that just failed are asked again at short intervals, which costs more than the flood.
    let alone = busy(&mut lab, "the first repetitions");
    let rate = (RATE / GUESSERS as u64).to_string();
    let mark = lab.agent().unwrap().mark();
    let source = Ipv4Addr::LOCALHOST.into();
    let guessers = [(); GUESSERS].map(|()| guess(&lab, "0.0.0.0:0", source, &["--rate", &rate]));
    let flooded = busy(&mut lab, "the flood");
    let done = guessers.map(|guesser| guesser.end().unwrap());
    let lines = lab.agent().unwrap().log_since(mark).len();
    println!(
        "{done:?}, {lines} lines; {alone:.1} % of a core before the flood, {flooded:.1} % in it"
    );
    assert!(lines < MOST_LINES * SECONDS as usize, "{lines} lines");
    assert!(flooded < MOST_CPU, "{flooded:.1} %");
}
