//! Table ids and generations: what is adopted, what is used again, and what a change raises.

use super::{one, wants};
use crate::policy::diff::{Desired, Planner, TableOp};
use egress_ebpf::abi::{MAX_TABLES, Policy, policy_flag};
use egress_ebpf::ids::{Generation, PolicyId, TableId};
use std::collections::BTreeMap;

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
