//! Tests of the log of flows and queries.

use super::*;
use crate::observe::captured;
use crate::observe::repeats::WINDOW;
use crate::proxy::DenialReason;
use crate::workloads::Identities;

fn flow_log() -> FlowLog {
    let owners = Owners::new(Identities::default()).unwrap();
    let access_log = Arc::new(AccessLog::new(Counters::default()));
    FlowLog::new(Counters::default(), owners, access_log)
}

fn kind(name: &str) -> Kind {
    Kind {
        by: By::Proxy,
        protocol: "tcp",
        reason: "host-not-listed",
        detail: "the Host is not listed on this port".into(),
        name: Some(name.into()),
        destination: Some(([192, 0, 2, 1], 80).into()),
        cgroup: Some(CgroupId(1)),
        audit: false,
    }
}

#[test]
fn a_client_that_asks_the_same_over_and_over_has_one_line_a_second() {
    let (log, start) = (flow_log(), Instant::now());
    let mut lines = Vec::new();
    for n in 0..1000 {
        lines.extend(log.allows(start + WINDOW * (n / 500), kind("a.example")));
    }
    assert_eq!(lines, [0, 499]);
    let told = |own| log.counters.get(own);
    assert_eq!(
        (told(Own::ProxyDenied), told(Own::ProxyNotLogged)),
        (1000, 0),
        "all are counted"
    );
}

#[test]
fn a_client_that_asks_for_ever_new_names_has_as_many_lines_as_its_share() {
    let (log, start) = (flow_log(), Instant::now());
    let names = (0..5000).map(|n| kind(&format!("n{n}.example")));
    let lines = names.filter_map(|kind| log.allows(start, kind)).count();
    let share = log.bounds().throttle.share();
    assert_eq!(lines, share as usize);
    let told = |own| log.counters.get(own);
    assert_eq!(told(Own::ProxyDenied), 5000);
    assert_eq!(told(Own::ProxyNotLogged), 5000 - u64::from(share));
    assert_eq!(
        log.bounds().throttle.take(start + WINDOW),
        told(Own::ProxyNotLogged)
    );
}

fn denial(name: &str, audit: bool) -> Denial {
    Denial {
        peer: ([127, 0, 0, 1], 4000).into(),
        name: Some(name.into()),
        reason: DenialReason::UnlistedHost,
        audit,
    }
}

fn lines_of(work: impl FnOnce(&FlowLog)) -> Vec<serde_json::Value> {
    captured::lines(|| work(&flow_log()))
}

#[test]
fn the_lines_tell_of_every_refusal() {
    let denial = denial("a.example\nforged", false);
    let lines = lines_of(|log| {
        for _ in 0..100 {
            log.denied(None, &denial);
        }
        log.log_ended(Instant::now() + WINDOW);
    });
    assert_eq!(lines[0]["message"], "denied");
    assert_eq!(lines[0]["peer"], "127.0.0.1:4000");
    assert_eq!(lines.last().unwrap()["message"], "denied again");
    // A slow machine may take more than a second for the hundred.
    let repeated: u64 = lines.iter().filter_map(|l| l["repeated"].as_u64()).sum();
    let own = lines.iter().filter(|l| l["message"] == "denied").count();
    assert_eq!(own as u64 + repeated, 100, "{lines:?}");
    assert!(lines.iter().all(|l| l["names"] == "a.example\nforged"));
}

#[test]
fn what_an_auditing_policy_let_through_is_told_as_such_and_no_refusal() {
    let denial = denial("a.example", true);
    let lines = lines_of(|log| {
        log.denied(None, &denial);
        log.denied(None, &denial);
        log.log_ended(Instant::now() + WINDOW);
        let told = |own| log.counters.get(own);
        assert_eq!((told(Own::ProxyDenied), told(Own::ProxyWouldDeny)), (0, 2));
    });
    let message = |n: usize| lines[n]["message"].as_str().unwrap();
    assert_eq!((message(0), message(1)), ("would_deny", "would_deny again"));
}

#[test]
fn what_was_too_much_is_told_with_the_next_line_or_after_a_while() {
    for followed in [true, false] {
        let lines = lines_of(|log| {
            let start = Instant::now();
            let share = log.bounds().throttle.share();
            for n in 0..share + 7 {
                log.allows(start, kind(&n.to_string()));
            }
            if followed {
                log.allows(start + WINDOW, kind("next"));
            }
            log.log_ended(start + WINDOW);
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["suppressed"], 7);
    }
}

#[test]
fn a_name_is_logged_no_longer_than_one_can_be() {
    assert_eq!(shown("a.example:80"), "a.example:80");
    assert_eq!(shown(&"\u{e9}".repeat(60_000)).chars().count(), NAME + 3);
}
