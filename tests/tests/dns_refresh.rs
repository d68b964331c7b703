//! Names that were answered together are asked for at different times afterwards.

use egress_tests::{Lab, wait_until};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const NAMES: usize = 400;
const TTL: u32 = 8;
/// How often each name is asked for after the first time.
const ROUNDS: usize = 3;
/// A and AAAA.
const QUESTIONS: usize = 2;
/// Longer than a busy machine needs.
const LONG: Duration = Duration::from_mins(2);
/// The limit for the busiest second, as a multiple of the mean. For names that are asked for together it would be
/// eight, their TTL.
const BUSIEST: usize = 3;

fn host(n: usize) -> String {
    format!("h{n}.names.example")
}

#[test]
fn names_that_were_answered_together_are_asked_for_evenly() {
    let lab = Lab::start().unwrap();
    let mut rules = String::new();
    for n in 0..NAMES {
        lab.dns.set(&host(n), &[[203, 0, 113, 7].into()], TTL);
        write!(
            rules,
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: h{n}}}\n\
             spec:\n  hosts: [{}]\n  ports: [{{number: 80, name: h, protocol: HTTP}}]\n  \
             resolution: DNS\n",
            host(n)
        )
        .unwrap();
    }
    let before = lab.dns.times().len();
    lab.write_rules("names.yaml", &rules).unwrap();
    wait_until("every name has its address", LONG, || {
        let status = lab.status().ok()?;
        let number = |key: &str| status["rules"][key].as_u64();
        (number("names")? >= NAMES as u64 && number("namesWithoutAddress")? == 0).then_some(())
    })
    .unwrap();
    let (answered, first) = (Instant::now(), lab.dns.times().len());
    assert!(first - before >= QUESTIONS * NAMES, "{}", first - before);

    let wanted = QUESTIONS * NAMES * ROUNDS;
    wait_until("each name was asked for again", LONG, || {
        (lab.dns.times().len() - first >= wanted).then_some(())
    })
    .unwrap();
    let mut seconds = vec![0; answered.elapsed().as_secs() as usize + 1];
    for at in lab.dns.times() {
        let after = at.checked_duration_since(answered);
        if let Some(second) = after.and_then(|after| seconds.get_mut(after.as_secs() as usize)) {
            *second += 1;
        }
    }
    // The last second is not complete.
    seconds.pop();
    println!("questions in each second: {seconds:?}");
    let (sum, most) = (
        seconds.iter().sum::<usize>(),
        *seconds.iter().max().unwrap(),
    );
    assert!(
        most * seconds.len() <= BUSIEST * sum,
        "{most} questions in one second: {seconds:?}"
    );
    let least = TTL as usize * ROUNDS / 2;
    assert!(
        seconds.len() >= least,
        "asked for more often than its TTL: {seconds:?}"
    );
}
