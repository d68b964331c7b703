//! Every step of every plan against a model of the kernel's maps.

use super::model::{Kernel, Seen};
use super::{Desired, Planner, TableOp};
use crate::policy::tables::{Action, Delta, Table, Target, Transport};
use egress_ebpf::abi::{MAX_TABLES, Policy, policy_flag};
use egress_ebpf::addr::Addr;
use egress_ebpf::ids::{Generation, PolicyId, TableId};
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

fn desired() -> impl Strategy<Value = BTreeMap<PolicyId, Desired>> {
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

/// Applies a plan; at each step every flow gets its old or its new verdict, none other.
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

fn delta(old: &Table, new: &Table) -> Delta {
    let gone = old
        .keys()
        .filter(|t| !new.contains_key(t))
        .map(|t| (*t, None));
    let put = new
        .iter()
        .filter(|(t, a)| old.get(t) != Some(a))
        .map(|(t, a)| (*t, Some(*a)));
    gone.chain(put).collect()
}

fn one(ip: &str) -> Table {
    let ip: IpAddr = ip.parse().unwrap();
    Table::from([(Target::address(ip, 443, Transport::Tcp), Action::Allow)])
}

fn wants(tables: &[(u32, Table)]) -> BTreeMap<PolicyId, Desired> {
    let desired = |t: &Table| Desired {
        table: t.clone(),
        allow_any: false,
        ..Desired::default()
    };
    tables
        .iter()
        .map(|(id, t)| (PolicyId(*id), desired(t)))
        .collect()
}

#[test]
fn an_empty_rule_set_is_a_policy_over_the_empty_table() {
    let ops = Planner::default().replace(wants(&[(0, Table::new())]));
    let policy = Policy {
        table: TableId(0),
        generation: Generation(1),
        flags: 0,
        errno: 0,
    };
    assert_eq!(ops, [TableOp::SetPolicy(PolicyId(0), policy)]);
}

#[test]
fn equal_tables_are_one_in_the_kernel() {
    let mut planner = Planner::default();
    let ops = planner.replace(wants(&[(0, one("10.0.0.1")), (1, one("10.0.0.1"))]));
    assert_eq!(ops.len(), 3, "{ops:?}");
    assert_eq!(
        planner.policies()[&PolicyId(0)].table,
        planner.policies()[&PolicyId(1)].table
    );
}

#[test]
fn what_was_adopted_stays_in_force_until_the_switch_and_is_dropped_after_it() {
    let pinned = Policy {
        table: TableId(7),
        generation: Generation(40),
        flags: 0,
        errno: 0,
    };
    let mut planner = Planner::adopt(
        [(PolicyId(0), pinned), (PolicyId(5), pinned)].into(),
        [TableId(7), TableId(9)],
    );
    let ops = planner.replace(wants(&[(0, one("10.0.0.1"))]));
    let TableOp::Put(table, _) = ops[0] else {
        panic!("{ops:?}")
    };
    assert_eq!(
        table,
        TableId(10),
        "ids of adopted tables are not used again"
    );
    let policy = Policy {
        table: TableId(10),
        generation: Generation(41),
        flags: 0,
        errno: 0,
    };
    let rest = [
        TableOp::SetPolicy(PolicyId(0), policy),
        TableOp::DeletePolicy(PolicyId(5)),
        TableOp::DropTable(TableId(7)),
        TableOp::DropTable(TableId(9)),
    ];
    assert_eq!(ops[1..], rest);
}

#[test]
fn table_ids_begin_again_below_their_limit_and_pass_over_those_in_use() {
    let pinned = |table| Policy {
        table,
        generation: Generation(1),
        flags: 0,
        errno: 0,
    };
    let (first, last) = (TableId(1), TableId(MAX_TABLES - 1));
    let mut planner = Planner::adopt(
        [(PolicyId(0), pinned(last)), (PolicyId(1), pinned(first))].into(),
        [first, last],
    );
    planner.replace(wants(&[(0, one("10.0.0.1"))]));
    assert_eq!(planner.policies()[&PolicyId(0)].table, TableId(2));
    planner.replace(wants(&[(0, one("10.0.0.2"))]));
    assert_eq!(planner.policies()[&PolicyId(0)].table, TableId(3));
}

#[test]
fn a_change_that_keeps_flows_switches_the_table_under_the_old_generation() {
    let mut planner = Planner::default().keeping_flows(true);
    let _ = planner.replace(wants(&[(0, one("10.0.0.1"))]));
    let before = planner.policies()[&PolicyId(0)];
    let _ = planner.replace(wants(&[(0, one("10.0.0.2"))]));
    let after = planner.policies()[&PolicyId(0)];
    assert_ne!(after.table, before.table);
    assert_eq!(after.generation, before.generation);
    assert_ne!(after.generation, Generation::NEVER);
}

#[test]
fn audit_and_errno_are_part_of_the_policy_and_raise_its_generation() {
    let mut planner = Planner::default();
    let _ = planner.replace(BTreeMap::from([(PolicyId(0), Desired::default())]));
    let before = planner.policies()[&PolicyId(0)];
    let audits = Desired {
        audit: true,
        errno: 111,
        ..Desired::default()
    };
    let ops = planner.replace(BTreeMap::from([(PolicyId(0), audits)]));
    let after = planner.policies()[&PolicyId(0)];
    assert_eq!(ops, [TableOp::SetPolicy(PolicyId(0), after)]);
    assert_eq!((after.flags, after.errno), (policy_flag::AUDIT, 111));
    assert_ne!(after.generation, before.generation);
}

#[test]
fn a_renewed_policy_has_a_generation_that_none_had_and_stays_what_it_is() {
    let mut planner = Planner::default();
    planner.replace(wants(&[(0, one("10.0.0.1")), (1, one("10.0.0.2"))]));
    let before = planner.policies().clone();
    let ops = planner.renew([PolicyId(0), PolicyId(7)]);
    let renewed = Policy {
        generation: planner.generation(),
        ..before[&PolicyId(0)]
    };
    assert_eq!(
        ops,
        [TableOp::SetPolicy(PolicyId(0), renewed)],
        "7 is nobody's"
    );
    assert!(before.values().all(|p| p.generation < renewed.generation));
    assert_eq!(planner.policies()[&PolicyId(1)], before[&PolicyId(1)]);
}

/// A few entries of what policies want become others.
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
                    };
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

fn many(first: u32, n: u32) -> Table {
    let address = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
    let targets = (first..first + n).map(|n| Target::address(address(n), 443, Transport::Tcp));
    targets.map(|target| (target, Action::Allow)).collect()
}

/// The most entries that stand at one time.
fn most(kernel: &mut Kernel, ops: &[TableOp]) -> usize {
    let stands = |op: &TableOp| {
        kernel.apply(op);
        kernel.tables.len()
    };
    ops.iter().map(stands).max().unwrap_or(0)
}

#[test]
fn old_and_new_never_need_twice_the_room() {
    let (mut planner, mut kernel) = (Planner::default(), Kernel::default());
    let each = 100_u32;
    let all = |round: u32| -> Vec<(u32, Table)> {
        let tables = (0..50).map(|id| (id, many((round * 50 + id) * each, each)));
        tables.collect()
    };
    assert_eq!(most(&mut kernel, &planner.replace(wants(&all(0)))), 5000);
    // Every policy gets a table of other content.
    let most_of_all = most(&mut kernel, &planner.replace(wants(&all(1))));
    assert!(most_of_all <= 5000 + 2 * each as usize, "{most_of_all}");
    assert_eq!(kernel.tables.len(), 5000);
    // One table holds everything, and one entry of it changes.
    let (mut planner, mut kernel) = (Planner::default(), Kernel::default());
    let ops = planner.replace(wants(&[(0, many(0, 5000))]));
    assert_eq!(most(&mut kernel, &ops), 5000);
    let ops = planner.replace(wants(&[(0, many(1, 5000))]));
    assert_eq!(ops.len(), 3, "{ops:?}");
    assert_eq!(most(&mut kernel, &ops), 5001);
}

#[test]
fn a_policy_does_not_move_to_a_table_that_becomes_something_else_in_the_same_writes() {
    let (mut planner, mut kernel) = (Planner::default(), Kernel::default());
    let (ten, eleven) = (one("10.0.0.1"), one("10.0.0.2"));
    let mut now = wants(&[(0, Table::new()), (1, Table::new()), (2, ten.clone())]);
    for op in planner.replace(now.clone()) {
        kernel.apply(&op);
    }
    // 1 comes to list what 2 lists until now.
    let changes = [
        (PolicyId(1), delta(&Table::new(), &ten)),
        (PolicyId(2), delta(&ten, &eleven)),
    ];
    let changes = BTreeMap::from(changes);
    now.extend(wants(&[(1, ten), (2, eleven)]));
    walk(&mut kernel, &planner.update(&changes));
    agrees(&kernel, &now);
}
