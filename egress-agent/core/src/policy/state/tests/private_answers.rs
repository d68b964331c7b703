//! Addresses that the settings accept no more.

use super::bench::Bench;
use super::{entry, port};
use crate::policy::leases::{Answer, Lease, LeaseSettings, PrivateAnswers};
use crate::policy::state::Settings;
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::time::Duration;

const BOTH: [&str; 2] = ["10.1.2.3", "203.0.113.1"];

fn accepting(network: Option<&str>) -> Settings {
    let accepted = |network: &str| PrivateAnswers {
        host: None,
        network: network.parse().unwrap(),
    };
    let private_answers = network.map(accepted).into_iter().collect();
    Settings {
        leases: LeaseSettings {
            private_answers,
            ..LeaseSettings::default()
        },
        ..Settings::default()
    }
}

/// A name that the agent asks for, one with a private address alone, and one that a workload asked for.
fn bench() -> Bench {
    let wild = entry("*.wild.example", "NONE", &port(5433, "TCP"), "")
        .replace("  resolution: NONE\n", "")
        .replace("name: e}", "name: wild}");
    let only =
        entry("only.example", "DNS", &port(5434, "TCP"), "").replace("name: e}", "name: only}");
    let db = entry("db.example", "DNS", &port(5432, "TCP"), "");
    let mut bench = Bench::new(accepting(Some("10.0.0.0/8")), &[&db, &only, &wild]);
    bench.state.handle_timeout(bench.now);
    while bench.state.poll_query().is_some() {}
    bench.answer("db.example", &BOTH);
    bench.answer("only.example", &BOTH[..1]);
    let lease = Lease {
        policy: PolicyId(0),
        workload: Some(CgroupId(1)),
        name: "db.wild.example".into(),
        hosts: vec!["*.wild.example".into()],
        answer: Answer {
            addresses: BOTH.map(|ip| ip.parse().unwrap()).into(),
            ttl: Duration::from_mins(1),
        },
    };
    bench.state.handle_leases(bench.now, &[lease]);
    bench.write();
    bench
}

fn set(bench: &mut Bench, settings: Settings) {
    bench.state.plan_settings(bench.now, settings).commit();
    bench.write();
}

fn asked(bench: &mut Bench) -> Vec<String> {
    bench.state.handle_timeout(bench.now);
    std::iter::from_fn(|| bench.state.poll_query())
        .map(|query| query.name.to_string())
        .collect()
}

fn private(bench: &Bench) -> Vec<&str> {
    let entries = bench.entries().into_iter();
    entries.filter(|entry| entry.starts_with("10.")).collect()
}

#[test]
fn an_address_that_is_accepted_no_more_is_denied_at_once() {
    let mut bench = bench();
    assert_eq!(private(&bench).len(), 3, "{:?}", bench.entries());
    let public = bench.entries().len() - 3;

    drop(bench.state.plan_settings(bench.now, accepting(None)));
    bench.write();
    assert_eq!(
        private(&bench).len(),
        3,
        "a plan that is dropped changes nothing"
    );

    set(&mut bench, accepting(None));
    assert_eq!(private(&bench), [""; 0]);
    assert_eq!(bench.entries().len(), public, "{:?}", bench.entries());
    let in_force = bench.state.in_force();
    let ip = BOTH[0].parse().unwrap();
    for name in ["db.example", "only.example", "db.wild.example"] {
        assert!(!in_force.has(name, ip), "{name}");
        assert!(!in_force.newest(name).contains(&ip), "{name}");
    }
    assert_eq!(asked(&mut bench), ["db.example", "only.example"]);
    let addressless: Vec<_> = bench.state.addressless().iter().collect();
    assert_eq!(addressless.len(), 1, "{addressless:?}");
}

#[test]
fn names_of_which_addresses_were_left_out_are_asked_for_at_once_when_they_are_accepted() {
    let mut bench = bench();
    set(&mut bench, accepting(None));
    assert_eq!(asked(&mut bench).len(), 2);
    bench.answer("db.example", &BOTH);
    bench.answer("only.example", &BOTH[..1]);
    assert_eq!(private(&bench), [""; 0]);

    set(&mut bench, accepting(Some("10.1.0.0/16")));
    assert_eq!(asked(&mut bench), ["db.example", "only.example"]);
    bench.answer("db.example", &BOTH);
    bench.answer("only.example", &BOTH[..1]);
    assert_eq!(private(&bench).len(), 2);

    set(&mut bench, accepting(Some("10.0.0.0/8")));
    assert_eq!(asked(&mut bench), [""; 0], "nothing was left out");
}
