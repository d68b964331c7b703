//! Targets by policy and time, and their bounds.

use super::{Aliases, Bounds, Seen};
use egress_ebpf::ids::PolicyId;
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_mins(1);

fn seen(policy: u32, host: &str, name: &str, target: &str) -> Seen {
    Seen {
        policy: PolicyId(policy),
        host: host.into(),
        name: name.into(),
        target: target.into(),
    }
}

fn names(aliases: &Aliases, now: Instant, policy: u32, target: &str) -> Vec<String> {
    let names = aliases.names_of(now, PolicyId(policy), target);
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn a_target_is_known_to_its_policy_until_the_alias_ends() {
    let (mut aliases, now) = (Aliases::default(), Instant::now());
    aliases.note(now, &seen(1, "a.example", "a.example", "x.cdn"), MINUTE);
    aliases.note(now, &seen(1, "b.example", "b.example", "x.cdn"), 2 * MINUTE);
    assert_eq!(names(&aliases, now, 1, "x.cdn"), ["a.example", "b.example"]);
    assert!(names(&aliases, now, 2, "x.cdn").is_empty());
    assert!(names(&aliases, now, 1, "y.cdn").is_empty());
    assert_eq!(names(&aliases, now + MINUTE, 1, "x.cdn"), ["b.example"]);
    // A shorter one ends no longer one.
    aliases.note(now, &seen(1, "b.example", "b.example", "x.cdn"), MINUTE);
    assert_eq!(names(&aliases, now + MINUTE, 1, "x.cdn"), ["b.example"]);
    assert!(names(&aliases, now + 2 * MINUTE, 1, "x.cdn").is_empty());
    assert_eq!(aliases.count(), 2);
}

#[test]
fn a_loop_is_no_target() {
    let (mut aliases, now) = (Aliases::default(), Instant::now());
    aliases.note(now, &seen(1, "a.example", "a.example", "a.example"), MINUTE);
    assert_eq!(aliases.count(), 0);
}

#[test]
fn a_flood_below_one_host_evicts_no_other_hosts_targets() {
    let bounds = Bounds {
        of_host: 4,
        all: 16,
        names: 2,
    };
    let (mut aliases, now) = (Aliases::within(bounds), Instant::now());
    aliases.note(now, &seen(1, "a.example", "a.example", "x.cdn"), MINUTE);
    let target = |n: u32| format!("t{n}.cdn");
    for n in 0..100 {
        let later = now + Duration::from_millis(n.into());
        let name = format!("{n}.w.example");
        aliases.note(later, &seen(1, "*.w.example", &name, &target(n)), MINUTE);
        // Names with one target.
        aliases.note(later, &seen(2, "*.w.example", &name, "x.cdn"), MINUTE);
    }
    assert_eq!(names(&aliases, now, 1, "x.cdn"), ["a.example"]);
    assert_eq!(names(&aliases, now, 1, "t99.cdn"), ["99.w.example"]);
    assert!(names(&aliases, now, 1, "t95.cdn").is_empty());
    assert_eq!(
        names(&aliases, now, 2, "x.cdn"),
        ["98.w.example", "99.w.example"]
    );
    assert_eq!(aliases.count(), 7);
}

#[test]
fn a_flood_by_one_policy_evicts_its_own_targets() {
    let bounds = Bounds {
        of_host: 8,
        all: 16,
        names: 8,
    };
    let (mut aliases, now) = (Aliases::within(bounds), Instant::now());
    aliases.note(now, &seen(1, "a.example", "a.example", "x.cdn"), MINUTE);
    for n in 0..100 {
        let (host, target) = (format!("h{}.example", n % 10), format!("t{n}.cdn"));
        aliases.note(now, &seen(2, &host, &host, &target), MINUTE);
    }
    assert_eq!(aliases.count(), 16);
    assert_eq!(names(&aliases, now, 1, "x.cdn"), ["a.example"]);
    // Those that ended make room first.
    let later = now + MINUTE;
    aliases.note(later, &seen(3, "c.example", "c.example", "z.cdn"), MINUTE);
    assert_eq!(aliases.count(), 1);
}
