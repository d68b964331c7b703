//! Leases over time.

use super::{Answer, Failure, LeaseSettings, Leases, PrivateAnswers};
use egress_ebpf::addr::Addr;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAME: &str = "httpbin.org";

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "the type that handle_answer takes"
)]
fn answer(ips: &[&str], ttl: u64) -> Result<Answer, Failure> {
    Ok(Answer {
        addresses: ips.iter().map(|s| ip(s)).collect(),
        ttl: secs(ttl),
    })
}

fn leases(now: Instant, names: &[&str], settings: LeaseSettings) -> Leases {
    let mut leases = Leases::new(settings);
    leases.want(now, &set(names));
    while leases.poll_query(now).is_some() {}
    leases
}

fn set(names: &[&str]) -> BTreeSet<Arc<str>> {
    names.iter().map(|n| Arc::from(*n)).collect()
}

fn held(leases: &Leases) -> Vec<String> {
    leases.leased(NAME).map(|ip| ip.to_string()).collect()
}

#[test]
fn a_wanted_name_is_asked_for_at_once_and_once() {
    let now = Instant::now();
    let mut leases = Leases::new(LeaseSettings::default());
    leases.want(now, &set(&[NAME]));
    assert_eq!(leases.poll_timeout(), Some(now));
    assert_eq!(leases.poll_query(now).as_deref(), Some(NAME));
    assert_eq!(leases.poll_query(now), None);
    assert_eq!(leases.unresolved().len(), 1);
    leases.want(now, &set(&[NAME]));
    assert_eq!(
        leases.poll_query(now),
        None,
        "wanting it again asks nothing"
    );
}

#[test]
fn answers_are_united_and_the_newest_is_dialled() {
    let now = Instant::now();
    let mut l = leases(now, &[NAME], LeaseSettings::default());
    assert!(
        l.handle_answer(now, NAME, answer(&["203.0.113.1", "2001:db8::1"], 60))
            .changed
    );
    assert!(
        l.handle_answer(now, NAME, answer(&["203.0.113.2"], 60))
            .changed
    );
    assert_eq!(held(&l), ["203.0.113.1", "203.0.113.2", "2001:db8::1"]);
    assert_eq!(l.newest(NAME), [ip("203.0.113.2")]);
    assert!(
        !l.handle_answer(now, NAME, answer(&["203.0.113.2"], 60))
            .changed
    );
    assert_eq!(l.unresolved().len(), 0);
}

#[test]
fn an_address_goes_after_its_ttl_and_grace_but_not_while_it_is_in_the_newest_answer() {
    let now = Instant::now();
    let mut l = leases(now, &[NAME], LeaseSettings::default());
    l.handle_answer(now, NAME, answer(&["203.0.113.1"], 5));
    l.handle_answer(now + secs(5), NAME, answer(&["203.0.113.2"], 5));
    // 5 s is raised to the smallest TTL of 30 s, plus 600 s.
    assert!(l.handle_timeout(now + secs(629)).is_empty());
    let over = BTreeSet::from(["203.0.113.1".parse().unwrap()]);
    assert_eq!(
        l.handle_timeout(now + secs(630)),
        [(NAME.into(), over)].into()
    );
    assert_eq!(held(&l), ["203.0.113.2"]);
    l.handle_timeout(now + secs(100_000));
    assert_eq!(held(&l), ["203.0.113.2"], "the last good set stays");
    assert_eq!(l.addresses().names_of(ip("203.0.113.1").into()).count(), 0);
}

#[test]
fn a_failure_keeps_the_last_good_set_and_backs_off() {
    let now = Instant::now();
    let mut l = leases(now, &[NAME], LeaseSettings::default());
    l.handle_answer(now, NAME, answer(&["203.0.113.1"], 5));
    let (mut at, mut before) = (now, None);
    for (failure, pause) in [
        (Failure::NoSuchName, 1),
        (Failure::NoAddress, 2),
        (Failure::Failed("timeout".into()), 4),
        (Failure::NoSuchName, 8),
        (Failure::NoSuchName, 16),
        (Failure::NoSuchName, 30),
        (Failure::NoSuchName, 30),
    ] {
        let told = super::Outcome {
            failed: (before != Some(failure.clone())).then(|| failure.clone()),
            ..super::Outcome::default()
        };
        assert_eq!(l.handle_answer(at, NAME, Err(failure.clone())), told);
        before = Some(failure);
        let next = l.poll_timeout().unwrap();
        let bounds = at + secs(pause) / 2..=at + secs(pause);
        assert!(bounds.contains(&next), "{pause} s: {:?}", next - at);
        at = next;
        assert_eq!(l.poll_query(at).as_deref(), Some(NAME));
    }
    l.handle_timeout(at + secs(1_000_000));
    assert_eq!(held(&l), ["203.0.113.1"]);
    assert_eq!(l.failing().count(), 1);
    let told = l.handle_answer(at, NAME, answer(&["203.0.113.1"], 7));
    assert!(told.recovered);
    assert!(
        l.poll_timeout() <= Some(at + secs(7)),
        "a good answer ends the backing off"
    );
    assert_eq!(l.failing().count(), 0);
    assert!(
        !l.handle_answer(at, NAME, answer(&["203.0.113.1"], 7))
            .recovered
    );
}

#[test]
fn the_same_addresses_that_are_not_public_are_told_once() {
    let now = Instant::now();
    let mut l = leases(now, &[NAME], LeaseSettings::default());
    let mut told = |ips: &[&str]| l.handle_answer(now, NAME, answer(ips, 5)).not_public;
    let both = ["203.0.113.1", "10.0.0.1"];
    assert_eq!(told(&both), [ip("10.0.0.1")]);
    assert_eq!(told(&both), [] as [IpAddr; 0]);
    assert_eq!(told(&["10.0.0.2", "10.0.0.1"]).len(), 2);
    assert_eq!(told(&["203.0.113.1"]), [] as [IpAddr; 0]);
    assert_eq!(told(&both), [ip("10.0.0.1")]);
}

#[test]
fn the_ttl_says_when_to_ask_again_within_bounds() {
    let now = Instant::now();
    for (ttl, pause) in [(0, 1), (1, 1), (42, 42), (86_400, 300), (u64::MAX, 300)] {
        let mut l = leases(now, &[NAME], LeaseSettings::default());
        l.handle_answer(now, NAME, answer(&["203.0.113.1"], ttl));
        let first = l.poll_timeout().unwrap();
        assert!((now..=now + secs(pause)).contains(&first), "TTL {ttl}");
        l.handle_answer(first, NAME, answer(&["203.0.113.1"], ttl));
        let again = l.poll_timeout().unwrap();
        let bounds = first + secs(pause) * 9 / 10..=first + secs(pause);
        assert!(
            bounds.contains(&again) || pause == 1,
            "TTL {ttl}: {:?}",
            again - first
        );
    }
}

#[test]
fn addresses_that_lead_inside_are_left_out_unless_allowed() {
    let now = Instant::now();
    let mut l = leases(now, &[NAME], LeaseSettings::default());
    let mixed = || answer(&["10.0.0.1", "203.0.113.1", "64:ff9b::a9fe:a9fe"], 60);
    let outcome = l.handle_answer(now, NAME, mixed());
    assert_eq!(outcome.not_public, [ip("10.0.0.1"), ip("169.254.169.254")]);
    assert_eq!(held(&l), ["203.0.113.1"]);

    let only = l.handle_answer(now, NAME, answer(&["192.168.0.1"], 60));
    assert!(!only.changed);
    assert_eq!(
        held(&l),
        ["203.0.113.1"],
        "an answer with nothing usable is a failure"
    );

    let suffix = format!("*.{}", NAME.split_once('.').unwrap().1);
    for (host, accepted) in [
        (None, true),
        (Some(NAME), true),
        (Some(&*suffix), true),
        (Some("other.example"), false),
        (Some("*.other.example"), false),
    ] {
        let private_answers = vec![PrivateAnswers {
            host: host.map(Into::into),
            network: "10.0.0.0/8".parse().unwrap(),
        }];
        let settings = LeaseSettings {
            private_answers,
            ..LeaseSettings::default()
        };
        let mut l = leases(now, &[NAME], settings);
        let left_out = l.handle_answer(now, NAME, mixed()).not_public;
        assert_eq!(!left_out.contains(&ip("10.0.0.1")), accepted, "{host:?}");
        assert!(left_out.contains(&ip("169.254.169.254")), "{host:?}");
    }
    let settings = LeaseSettings {
        allow_private_answers: true,
        ..LeaseSettings::default()
    };
    let mut l = leases(now, &[NAME], settings);
    assert!(l.handle_answer(now, NAME, mixed()).not_public.is_empty());
}

#[test]
fn an_address_of_two_names_stays_until_both_let_it_go() {
    let now = Instant::now();
    let shared: Addr = ip("203.0.113.1").into();
    let mut l = leases(now, &[NAME, "b.example"], LeaseSettings::default());
    l.handle_answer(now, NAME, answer(&["203.0.113.1"], 60));
    l.handle_answer(now, "b.example", answer(&["203.0.113.1"], 60));
    assert_eq!(
        l.addresses()
            .names_of(shared)
            .map(|n| &**n)
            .collect::<Vec<_>>(),
        ["b.example", NAME]
    );
    l.want(now, &set(&["b.example"]));
    assert_eq!(
        l.addresses()
            .names_of(shared)
            .map(|n| &**n)
            .collect::<Vec<_>>(),
        ["b.example"]
    );
    l.want(now, &set(&[]));
    assert_eq!(l.addresses().names_of(shared).count(), 0);
    assert_eq!(
        l.poll_timeout(),
        None,
        "nothing is left to do for names that are gone"
    );
}

#[test]
fn a_full_name_counts_what_it_leaves_out_and_keeps_what_it_has() {
    let now = Instant::now();
    let settings = LeaseSettings {
        max_addresses: 2,
        ..LeaseSettings::default()
    };
    let mut l = leases(now, &[NAME], settings);
    l.handle_answer(
        now,
        NAME,
        answer(&["203.0.113.1", "203.0.113.2", "203.0.113.3"], 60),
    );
    assert_eq!(l.lost().left_out, 1);
    let outcome = l.handle_answer(now, NAME, answer(&["203.0.113.9"], 60));
    assert_eq!((outcome.changed, outcome.left_out), (false, 1));
    assert_eq!(held(&l), ["203.0.113.1", "203.0.113.2"]);
    assert_eq!(l.newest(NAME), [ip("203.0.113.1"), ip("203.0.113.2")]);
}

#[test]
fn a_thousand_addresses_fit_by_default() {
    let now = Instant::now();
    let mut l = leases(now, &[NAME], LeaseSettings::default());
    for part in 0..250_u8 {
        let ips: Vec<_> = (0..8_u8).map(|n| format!("52.216.{part}.{n}")).collect();
        let ips: Vec<_> = ips.iter().map(String::as_str).collect();
        l.handle_answer(now, NAME, answer(&ips, 5));
    }
    assert_eq!((l.leased(NAME).count(), l.lost().left_out), (2000, 0));
}

#[test]
fn a_late_answer_for_a_name_that_is_gone_changes_nothing() {
    let now = Instant::now();
    let mut l = leases(now, &[], LeaseSettings::default());
    assert_eq!(
        l.handle_answer(now, NAME, answer(&["203.0.113.1"], 5)),
        super::Outcome::default()
    );
    assert_eq!(l.poll_timeout(), None);
}
