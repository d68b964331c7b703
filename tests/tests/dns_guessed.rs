//! A workload answers the agent's own DNS questions in the name server's place: it must not
//! succeed, and must not fill the log.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use egress_tests::background::Background;
use egress_tests::hosts::{Fault, World};
use egress_tests::lab::{LabOptions, host, v4};
use egress_tests::rules::ECHO;
use egress_tests::{Lab, agent, wait_until};

/// As systemd-resolved has it.
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
    // A resolver that has to ask further on.
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
    // Refused by the host, which has no such port: the gate let it out.
    let won = wait_until("a guess was believed", Duration::from_secs(10), || {
        (tcp(host::BYSTANDER) != Some(libc::EPERM)).then(|| start.elapsed())
    });
    let lines = guess.end().unwrap();
    assert!(won.is_err(), "won after {won:?}; {lines:?}");
    assert_eq!(tcp(host::ECHO), None, "the name still leads to its host");
}
