//! A flood of denials: the agent stays cheap, and every denial is accounted for.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use egress_tests::child::Guarded;
use egress_tests::client::run;
use egress_tests::lab::{host, v4};
use egress_tests::place::Place;
use egress_tests::probe::attempt;
use egress_tests::{Lab, load, readiness, wait_until};
use serde_json::Value;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

const RATE: u64 = 200_000;
const SECONDS: u64 = 5;
const SOON: Duration = Duration::from_secs(5);
/// The most processor time, in per cent of one core.
const MOST_CPU: f64 = 5.0;

fn number(status: &Value, pointer: &str) -> u64 {
    readiness::number(status, pointer).unwrap()
}

/// Waits until each denial is counted in one of the three ways. Returns the counts.
fn settled(lab: &Lab) -> (u64, u64, u64, u64) {
    let mut last = (0, 0, 0, 0);
    let sum = wait_until("the counters add up", Duration::from_secs(5), || {
        let status = lab.status().unwrap();
        last = (
            number(&status, "/counters/denied"),
            number(&status, "/rules/events"),
            number(&status, "/counters/repeated"),
            number(&status, "/counters/eventsLost"),
        );
        (last.0 == last.1 + last.2 + last.3).then_some(last)
    });
    sum.unwrap_or_else(|e| panic!("{e}: denied, events, repeated, lost: {last:?}"))
}

fn flood(lab: &mut Lab, spread: &[&str], processes: usize) {
    let before = settled(lab);
    let cpu_before = lab.agent().unwrap().cpu().unwrap();
    let start = Instant::now();
    let each = (RATE / processes as u64).to_string();
    let seconds = SECONDS.to_string();
    let arguments = [&["flood", "--rate", &each, "--seconds", &seconds], spread].concat();
    let done: Vec<_> = std::thread::scope(|scope| {
        let one = || {
            let command = load::command(&lab.client_place(), &arguments).unwrap();
            let ended = run(command, Duration::from_secs(SECONDS + 20)).unwrap();
            load::parse(&ended.stdout).unwrap()
        };
        let threads: Vec<_> = (0..processes).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let spent = lab
        .agent()
        .unwrap()
        .cpu()
        .unwrap()
        .saturating_sub(cpu_before);
    let percent = 100.0 * spent.as_secs_f64() / start.elapsed().as_secs_f64();
    let after = settled(lab);
    let all = |name: &str| done.iter().map(|d| d[name]).sum::<u64>();
    let denied = after.0 - before.0;
    println!(
        "{} refusals, {} a second, {spread:?}, {processes} processes: agent {percent:.1} % of a core; \
         {denied} denied = {} events + {} repeated + {} lost",
        all("done"),
        all("persecond"),
        after.1 - before.1,
        after.2 - before.2,
        after.3 - before.3,
    );
    assert_eq!(all("passed"), 0);
    // They include the canary's own denials.
    assert!(
        (all("done")..all("done") + 20).contains(&denied),
        "{denied} of {}",
        all("done")
    );
    assert!(percent < MOST_CPU, "{percent:.1} %");
}

#[test]
fn a_flood_of_one_refusal_is_cheap_and_counted() {
    let mut lab = Lab::start().unwrap();
    flood(&mut lab, &[], 1);
    flood(&mut lab, &[], 2);
}

#[test]
fn a_flood_of_different_refusals_is_cheap_and_counted() {
    let mut lab = Lab::start().unwrap();
    flood(&mut lab, &["--spread"], 1);
    flood(&mut lab, &["--spread"], 2);
}

#[test]
fn a_flood_of_different_refusals_does_not_hide_a_neighbour_s() {
    let mut lab = Lab::start().unwrap();
    let neighbour = lab.workloads().child("neighbour").unwrap();
    let (rate, seconds) = (RATE.to_string(), (4 * SECONDS).to_string());
    let flood = ["flood", "--rate", &rate, "--seconds", &seconds, "--spread"];
    let hogs: Vec<_> = (0..2)
        .map(|_| {
            let mut command = load::command(&lab.client_place(), &flood).unwrap();
            Guarded::spawn(command.stdout(Stdio::null())).unwrap()
        })
        .collect();
    let lost = number(&lab.status().unwrap(), "/counters/eventsLost");
    wait_until("events are lost", SOON, || {
        (number(&lab.status().ok()?, "/counters/eventsLost") > lost + 1000).then_some(())
    })
    .unwrap();
    for port in 4001..4006 {
        let to = SocketAddr::new(v4(host::BYSTANDER), port);
        let mark = lab.agent().unwrap().mark();
        let place = Place {
            cgroup: Some(&neighbour),
            ..lab.client_place()
        };
        assert!(attempt(&place, "udp", to).unwrap().denied());
        let to = to.to_string();
        let agent = lab.agent().unwrap();
        let line = agent.wait_line(mark, SOON, "its denial", |line| line.contains(&to));
        println!("{}", line.unwrap());
    }
    drop(hogs);
}
