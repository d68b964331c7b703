//! Every step of every plan against a model of the kernel's maps.

use super::{delta, one, wants};
use crate::policy::diff::model::{Kernel, Seen};
use crate::policy::diff::{Desired, Planner, TableOp};
use crate::policy::tables::{Action, Table, Target, Transport};
use egress_ebpf::abi::policy_flag;
use egress_ebpf::addr::Addr;
use egress_ebpf::ids::{PolicyId, TableId};
use egress_ebpf::table::Key;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::IpAddr;

const ADDRS: [&str; 5] = [
    "10.0.0.1",
    "10.0.0.2",
    "10.0.1.1",
    "2001:db8::1",
    "11.0.0.1",
];
const NETS: [&str; 5] = [
    "10.0.0.0/8",
    "10.0.0.0/24",
    "10.0.0.0/31",
    "0.0.0.0/0",
    "::/0",
];
const PORTS: [u16; 3] = [0, 80, 443];

fn target() -> impl Strategy<Value = Vec<Target>> {
    let transport = prop_oneof![Just(Transport::Tcp), Just(Transport::Udp)];
    (0..11_usize, 0..PORTS.len(), transport).prop_map(|(what, port, transport)| {
        let port = PORTS[port];
        match what {
            0..5 => vec![Target::address(
                ADDRS[what].parse::<IpAddr>().unwrap(),
                port,
                transport,
            )],
            5..10 => Target::network(NETS[what - 5].parse().unwrap(), port, transport),
            _ => vec![Target::any(port, transport)],
        }
    })
}

fn table() -> impl Strategy<Value = Table> {
    let action = prop_oneof![Just(Action::Allow), Just(Action::Proxy)];
    prop::collection::vec((target(), action), 0..8).prop_map(|entries| {
        entries
            .into_iter()
            .flat_map(|(ts, a)| ts.into_iter().map(move |t| (t, a)))
            .collect()
    })
}

pub(super) fn desired() -> impl Strategy<Value = BTreeMap<PolicyId, Desired>> {
    let one = (table(), prop::bool::weighted(0.1)).prop_map(|(table, allow_any)| Desired {
        table,
        allow_any,
        ..Desired::default()
    });
    prop::collection::btree_map((0..3_u32).prop_map(PolicyId), one, 0..4)
}

fn everything() -> impl Iterator<Item = (PolicyId, Addr, u16, Transport)> {
    (0..3).map(PolicyId).flat_map(|policy| {
        ADDRS.iter().flat_map(move |a| {
            let addr = a.parse::<IpAddr>().unwrap().into();
            [80, 443, 22].into_iter().flat_map(move |port| {
                [Transport::Tcp, Transport::Udp].map(|t| (policy, addr, port, t))
            })
        })
    })
}

/// Applies a plan. At each step every flow must get its old or its new verdict.
fn walk(kernel: &mut Kernel, ops: &[TableOp]) {
    let verdicts = |k: &Kernel| -> Vec<Seen> {
        everything()
            .map(|(p, a, port, t)| k.judge(p, a, port, t))
            .collect()
    };
    let old = verdicts(kernel);
    let mut end = kernel.clone();
    for op in ops {
        end.apply(op);
    }
    let new = verdicts(&end);
    for op in ops {
        kernel.apply(op);
        for (i, seen) in verdicts(kernel).into_iter().enumerate() {
            assert!(
                seen == old[i] || seen == new[i],
                "{op:?}: {seen:?}, {:?} {:?}",
                old[i],
                new[i]
            );
        }
    }
}

fn content(kernel: &Kernel, policy: PolicyId) -> Option<Vec<Key>> {
    let (table, ..) = *kernel.policies.get(&policy)?;
    Some(kernel.tables.entries(table).map(|e| e.key).collect())
}

fn agrees(kernel: &Kernel, desired: &BTreeMap<PolicyId, Desired>) {
    let mut entries = BTreeMap::new();
    for (id, want) in desired {
        let mut wanted: Vec<_> = want.table.keys().map(Target::key).collect();
        wanted.sort_unstable();
        assert_eq!(content(kernel, *id).unwrap(), wanted);
        let prefixes = wanted.iter().filter(|key| !key.is_exact()).count();
        let (table, flags, _) = kernel.policies[id];
        assert_eq!(flags & policy_flag::ALLOW_ANY != 0, want.allow_any);
        assert_eq!(flags & policy_flag::HAS_PREFIXES != 0, prefixes > 0);
        assert!(table != TableId(0) || want.table.is_empty());
        entries.insert(table, want.table.len());
    }
    assert_eq!(kernel.policies.len(), desired.len());
    let total: usize = entries.values().sum();
    assert_eq!(kernel.tables.len(), total, "nothing is left behind");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn rules_change_in_one_step_and_leave_nothing_behind(
        plans in prop::collection::vec(desired(), 1..4)
    ) {
        let (mut planner, mut kernel) = (Planner::default(), Kernel::default());
        for desired in plans {
            let ops = planner.replace(desired.clone());
            walk(&mut kernel, &ops);
            agrees(&kernel, &desired);
            prop_assert!(planner.replace(desired).is_empty(), "the same rules change nothing");
        }
    }

    #[test]
    fn addresses_change_in_place_and_every_step_is_old_or_new(
        start in desired(),
        next in prop::collection::vec(prop::collection::btree_map((0..3_u32).prop_map(PolicyId), table(), 0..4), 1..4)
    ) {
        let (mut planner, mut kernel) = (Planner::default(), Kernel::default());
        let mut now = start.clone();
        for op in planner.replace(start) {
            kernel.apply(&op);
        }
        let generation = planner.generation();
        for tables in next {
            let mut changes = BTreeMap::new();
            for (id, table) in tables {
                let Some(policy) = now.get_mut(&id) else { continue };
                changes.insert(id, delta(&policy.table, &table));
                policy.table = table;
            }
            walk(&mut kernel, &planner.update(&changes));
            agrees(&kernel, &now);
            prop_assert_eq!(planner.generation(), generation);
        }
    }
}

/// Changes a few entries of the desired policies.
fn edits() -> impl Strategy<Value = Vec<(PolicyId, Vec<Target>, Option<Action>)>> {
    let action = prop::option::of(prop_oneof![Just(Action::Allow), Just(Action::Proxy)]);
    prop::collection::vec(((0..3_u32).prop_map(PolicyId), target(), action), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(192) })]

    #[test]
    fn rules_that_change_a_little_are_old_or_new_at_every_step(
        start in desired(),
        next in prop::collection::vec((edits(), prop::bool::weighted(0.2)), 1..5),
        keep in any::<bool>(),
    ) {
        let (mut planner, mut kernel) = (Planner::default().keeping_flows(keep), Kernel::default());
        let mut now = start;
        for op in planner.replace(now.clone()) {
            kernel.apply(&op);
        }
        for (edits, other_flags) in next {
            let before = planner.policies().clone();
            let held = now.clone();
            for (id, targets, action) in edits {
                let Some(policy) = now.get_mut(&id) else { continue };
                policy.allow_any ^= other_flags;
                for target in targets {
                    match action {
                        Some(action) => policy.table.insert(target, action),
                        None => policy.table.remove(&target),
                    }
                }
            }
            walk(&mut kernel, &planner.replace(now.clone()));
            agrees(&kernel, &now);
            for (id, policy) in planner.policies() {
                let changed = held[id] != now[id];
                let raised = policy.generation != before[id].generation;
                prop_assert!(raised || keep || !changed, "flows are judged anew");
                prop_assert!(changed || !raised, "nothing changed for {id}");
            }
        }
    }
}

#[test]
fn a_policy_does_not_move_to_a_table_that_becomes_something_else_in_the_same_writes() {
    let (mut planner, mut kernel) = (Planner::default(), Kernel::default());
    let (ten, eleven) = (one("10.0.0.1"), one("10.0.0.2"));
    let mut now = wants(&[(0, Table::new()), (1, Table::new()), (2, ten.clone())]);
    for op in planner.replace(now.clone()) {
        kernel.apply(&op);
    }
    // Policy 1 gets the content that policy 2 has so far.
    let changes = [
        (PolicyId(1), delta(&Table::new(), &ten)),
        (PolicyId(2), delta(&ten, &eleven)),
    ];
    let changes = BTreeMap::from(changes);
    now.extend(wants(&[(1, ten), (2, eleven)]));
    walk(&mut kernel, &planner.update(&changes));
    agrees(&kernel, &now);
}
