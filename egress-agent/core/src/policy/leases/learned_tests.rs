//! Who loses a name when there are too many.

use super::{Bounds, Learned};
use crate::policy::leases::{Answer, Lease};
use egress_ebpf::ids::{CgroupId, PolicyId};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn lease(workload: u64, host: &str, number: usize) -> Lease {
    Lease {
        policy: PolicyId(0),
        workload: Some(CgroupId(workload)),
        name: format!("n{number}{}", host.trim_start_matches('*')).into(),
        hosts: vec![host.into()],
        answer: Answer::default(),
    }
}

/// Notes a name, and forgets those that have to go, as the leases do.
fn note(learned: &mut Learned, at: Instant, lease: &Lease, bounds: &Bounds) -> Vec<Arc<str>> {
    let ended = learned.note(at, lease, bounds);
    for name in &ended {
        assert!(learned.forget(name));
    }
    ended
}

const SMALL: Bounds = Bounds {
    of_workload: 10,
    names: 30,
    addresses: 4,
};

#[test]
fn a_flood_ends_no_name_of_a_neighbour() {
    let (mut learned, start) = (Learned::default(), Instant::now());
    let mut now = start;
    for n in 0..8 {
        note(&mut learned, now, &lease(1, "*.a.example", n), &SMALL);
    }
    // One wildcard of the neighbour's, and more that only the flood uses.
    for n in 100..1_100 {
        now += Duration::from_millis(1);
        let host = ["*.a.example", "*.b.example", "*.c.example", "*.d.example"][n % 4];
        for ended in note(&mut learned, now, &lease(2, host, n), &SMALL) {
            let number: usize = ended[1..].split('.').next().unwrap().parse().unwrap();
            assert!(number >= 100, "{ended} belongs to a neighbour");
        }
        assert!(learned.len() <= SMALL.names);
    }
    assert!((0..8).all(|n| learned.has(&lease(1, "*.a.example", n).name)));
}

#[test]
fn a_name_of_two_workloads_stays_until_both_lost_it() {
    let (mut learned, now) = (Learned::default(), Instant::now());
    let shared = lease(1, "*.a.example", 0);
    note(&mut learned, now, &shared, &SMALL);
    note(&mut learned, now, &lease(2, "*.a.example", 0), &SMALL);
    for n in 1..=10 {
        let later = now + Duration::from_secs(n as u64);
        note(&mut learned, later, &lease(2, "*.a.example", n), &SMALL);
    }
    assert!(learned.has(&shared.name), "workload 1 has it");
    for n in 1..=10 {
        let later = now + Duration::from_secs(n as u64);
        note(
            &mut learned,
            later,
            &lease(1, "*.a.example", 100 + n),
            &SMALL,
        );
    }
    assert!(!learned.has(&shared.name));
    assert_eq!(learned.len(), 20);
}

#[test]
fn the_name_that_was_asked_for_longest_ago_goes_first() {
    let (mut learned, now) = (Learned::default(), Instant::now());
    for n in 0..10 {
        let later = now + Duration::from_secs(n as u64);
        note(&mut learned, later, &lease(1, "*.a.example", n), &SMALL);
    }
    let later = now + Duration::from_mins(1);
    note(&mut learned, later, &lease(1, "*.a.example", 0), &SMALL);
    let ended = note(&mut learned, later, &lease(1, "*.a.example", 10), &SMALL);
    assert_eq!(ended, [lease(1, "*.a.example", 1).name]);
}

proptest! {
    #[test]
    fn its_parts_agree(
        steps in prop::collection::vec((0_u64..4, 0_usize..3, 0_usize..40, any::<bool>()), 0..300),
    ) {
        let (mut learned, mut now) = (Learned::default(), Instant::now());
        for (workload, host, number, forgets) in steps {
            now += Duration::from_secs(1);
            let lease = lease(workload, ["*.a.example", "*.b.example", "*.c.example"][host], number);
            if forgets {
                learned.forget(&lease.name);
            } else {
                note(&mut learned, now, &lease, &SMALL);
            }
            for (learner, groups) in &learned.by_learner {
                let held: usize = groups.values().map(BTreeSet::len).sum();
                prop_assert_eq!(learned.counts.get(learner).copied(), Some(held));
                prop_assert!(groups.values().all(|group| group.len() <= SMALL.of_workload));
                for (at, name) in groups.values().flatten() {
                    prop_assert_eq!(learned.names[name].asked.get(learner), Some(at));
                }
            }
            prop_assert_eq!(learned.counts.values().sum::<usize>(), learned.total);
            prop_assert!(learned.total <= SMALL.names);
            prop_assert!(learned.names.values().all(|name| !name.asked.is_empty()));
        }
    }
}
