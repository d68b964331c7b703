//! Answers of workloads beside the agent's own.

use crate::policy::leases::store::Stored;
use crate::policy::leases::{Answer, Bounds, Lease, LeaseSettings, Leases, Moved};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const NAME: &str = "s3.example";

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn answer(ips: &[String], ttl: u64) -> Answer {
    Answer {
        addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        ttl: secs(ttl),
    }
}

fn lease(name: &str, host: &str, ips: &[String], ttl: u64) -> Lease {
    Lease {
        policy: PolicyId(1),
        workload: Some(CgroupId(1)),
        name: name.into(),
        hosts: vec![host.into()],
        answer: answer(ips, ttl),
    }
}

/// Eight addresses from the `round`th on, of `of` in a circle.
fn eight(round: usize, of: usize) -> Vec<String> {
    let ip = |n: usize| format!("52.216.{}.{}", n % of / 256, n % of % 256);
    (round * 8..round * 8 + 8).map(ip).collect()
}

fn asking(settings: LeaseSettings) -> (Leases, Instant) {
    let (mut leases, now) = (
        Leases::new(settings),
        Instant::now() + Duration::from_hours(1),
    );
    leases.want(now, &BTreeSet::from([Arc::from(NAME)]));
    while leases.poll_query(now).is_some() {}
    (leases, now)
}

#[test]
fn rotating_answers_accumulate_without_a_denial() {
    let (mut leases, start) = asking(LeaseSettings::default());
    leases.handle_answer(start, NAME, Ok(answer(&eight(0, 200), 1)));
    for round in 0..1_000 {
        let now = start + secs(round as u64);
        let own = lease(NAME, NAME, &eight(round, 200), 1);
        let (outcome, _) = leases.handle_lease(now, &own);
        assert_eq!((outcome.left_out, outcome.evicted), (0, 0));
        leases.handle_timeout(now);
        assert!(leases.in_force().covers(now, &own));
    }
    assert_eq!(leases.leased(NAME).count(), 200);
    let own: Vec<IpAddr> = answer(&eight(0, 200), 1).addresses;
    assert_eq!(
        leases.newest(NAME),
        own,
        "the proxy dials the agent's own answer"
    );
}

#[test]
fn a_full_name_loses_what_was_unused_for_longest_and_nothing_that_is_new() {
    let settings = LeaseSettings {
        max_addresses: 24,
        ..LeaseSettings::default()
    };
    let (mut leases, start) = asking(settings);
    leases.handle_answer(start, NAME, Ok(answer(&eight(0, 4_000), 1)));
    // A new address each second: those of the last 30 s do not fit, so the newest ones are left out at first.
    let mut left_out = 0;
    for round in 1..100 {
        let now = start + secs(20 * round as u64);
        let own = lease(NAME, NAME, &eight(round, 4_000), 1);
        let (outcome, _) = leases.handle_lease(now, &own);
        left_out += outcome.left_out;
        let held: BTreeSet<IpAddr> = leases.leased(NAME).collect();
        assert!(held.len() <= 24);
        assert!(leases.newest(NAME).iter().all(|ip| held.contains(ip)));
        let last = lease(NAME, NAME, &eight(round - 1, 4_000), 1);
        if outcome.left_out == 0 && round > 2 {
            assert!(
                last.answer.addresses.iter().any(|ip| held.contains(ip)),
                "{round}"
            );
        }
    }
    let lost = leases.lost();
    assert!(lost.evicted > 300, "{lost:?} {left_out}");
    assert_eq!(lost.left_out, left_out as u64);
}

#[test]
fn an_address_in_use_stays() {
    let (mut leases, start) = asking(LeaseSettings::default());
    leases.handle_answer(start, NAME, Ok(answer(&eight(0, 200), 1)));
    leases.handle_lease(start, &lease(NAME, NAME, &eight(1, 200), 1));
    let used: IpAddr = eight(1, 200)[3].parse().unwrap();
    let mut now = start;
    for _ in 0..60 {
        now += secs(60);
        leases.handle_in_use(now, &BTreeSet::from([used]), secs(90));
        leases.handle_timeout(now);
    }
    let held: Vec<IpAddr> = leases.leased(NAME).collect();
    assert_eq!(
        held.len(),
        9,
        "the last good answer, and the address in use"
    );
    assert!(held.contains(&used));
    leases.handle_timeout(now + secs(601));
    assert_eq!(
        leases.leased(NAME).count(),
        8,
        "it ends when it is not in use any more"
    );
}

#[test]
fn a_pool_that_is_idle_for_370_s_connects_again_although_the_name_has_moved() {
    // Grace, whether the connection stands, and whether a new one to its address is allowed after 370 and 600 s.
    for (grace, stands, expected) in [
        (600, false, [true, true]),
        (60, true, [true, false]),
        (60, false, [false, false]),
    ] {
        let (mut leases, start) = asking(LeaseSettings {
            grace: secs(grace),
            ..LeaseSettings::default()
        });
        leases.handle_answer(start, NAME, Ok(answer(&eight(0, 200), 1)));
        let used: IpAddr = eight(0, 200)[2].parse().unwrap();
        let mut allowed = Vec::new();
        for second in 1..=600 {
            let now = start + secs(second);
            let moved = eight(1 + second as usize % 24, 200);
            leases.handle_lease(now, &lease(NAME, NAME, &moved, 1));
            leases.handle_answer(now, NAME, Ok(answer(&moved, 1)));
            // The agent lists running connections each minute.
            if stands && second % 60 == 0 && second <= 370 {
                leases.handle_in_use(now, &BTreeSet::from([used]), secs(90));
            }
            leases.handle_timeout(now);
            if [370, 600].contains(&second) {
                allowed.push(leases.leased(NAME).any(|ip| ip == used));
            }
        }
        assert_eq!(allowed, expected, "{grace} s, {stands}");
    }
}

#[test]
fn a_learned_name_ends_with_its_addresses() {
    let (mut leases, now) = asking(LeaseSettings::default());
    let own = lease("a.wild.example", "*.wild.example", &eight(0, 8), 60);
    let (outcome, changed) = leases.handle_lease(now, &own);
    let all = own.answer.addresses.iter().copied().collect();
    let all = Moved::from([("a.wild.example".into(), all)]);
    assert!(outcome.changed && changed == all);
    assert_eq!(
        (leases.learned(), leases.count()),
        (1, 1),
        "it is not asked for"
    );
    assert!(leases.in_force().covers(now, &own));
    assert_eq!(leases.poll_query(now + secs(1_000)), None);
    let over = now + secs(60 + 600);
    let changed = leases.handle_timeout(over);
    assert_eq!(changed, all);
    leases.sweep(&changed);
    assert_eq!(
        (leases.learned(), leases.leased("a.wild.example").count()),
        (0, 0)
    );
    assert!(!leases.in_force().covers(over, &own));
}

#[test]
fn a_learned_name_that_a_rule_names_later_keeps_its_addresses() {
    let (mut leases, now) = asking(LeaseSettings::default());
    let own = lease("a.wild.example", "*.wild.example", &eight(0, 8), 60);
    leases.handle_lease(now, &own);
    leases.add(now, &"a.wild.example".into());
    assert_eq!((leases.learned(), leases.count()), (0, 2));
    assert_eq!(leases.newest("a.wild.example").len(), 8);
    assert_eq!(leases.poll_query(now).as_deref(), Some("a.wild.example"));
}

#[test]
fn addresses_that_are_not_public_get_no_lease() {
    let (mut leases, now) = asking(LeaseSettings::default());
    for name in [NAME, "a.wild.example"] {
        let own = lease(name, "*.wild.example", &["10.0.0.1".into()], 60);
        let (outcome, _) = leases.handle_lease(now, &own);
        assert!(!outcome.changed && !outcome.not_public.is_empty());
        assert_eq!(leases.leased(name).count(), 0);
    }
    assert_eq!(leases.learned(), 0);
}

#[test]
fn a_flood_below_a_wildcard_is_bounded_and_ends_no_neighbours_name() {
    let bounds = Bounds {
        of_workload: 100,
        names: 150,
        addresses: 4,
    };
    let settings = LeaseSettings {
        learned: bounds,
        ..LeaseSettings::default()
    };
    let (mut leases, mut now) = asking(settings);
    let of = |workload, number: usize| Lease {
        workload: Some(CgroupId(workload)),
        ..lease(
            &format!("n{number}.wild.example"),
            "*.wild.example",
            &eight(number, 4_000),
            60,
        )
    };
    for n in 0..50 {
        leases.handle_lease(now, &of(7, n));
    }
    for n in 1_000..3_000 {
        now += Duration::from_millis(1);
        leases.handle_lease(now, &of(1, n));
    }
    assert_eq!(leases.learned(), 150);
    assert!((0..50).all(|n| leases.leased(&of(7, n).name).count() == 4));
    assert!(leases.leases() <= 150 * 4);
    assert_eq!(leases.lost().of_names, 1_900 * 4);
}

#[test]
fn learned_names_outlive_the_agent() {
    let (mut leases, now) = asking(LeaseSettings::default());
    let own = lease("a.wild.example", "*.wild.example", &eight(0, 8), 60);
    leases.handle_lease(now, &own);
    let clock = secs(1_700_000_000);
    let stored = Stored::parse(&leases.in_force().store(now, clock), clock).unwrap();
    let (mut next, now) = asking(LeaseSettings::default());
    let listed = Lease {
        answer: Answer::default(),
        ..own.clone()
    };
    assert!(next.restore_learned(now, clock, &stored, &listed));
    assert_eq!(next.leased("a.wild.example").count(), 8);
    assert!(next.in_force().covers(now, &own));
    let over = next.handle_timeout(now + secs(660));
    assert_eq!(over.len(), 1, "not longer than before");
    let (mut late, now) = asking(LeaseSettings::default());
    assert!(!late.restore_learned(now, clock + secs(661), &stored, &listed));
}
