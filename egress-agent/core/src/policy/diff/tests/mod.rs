//! The planner's writes. This file checks a plan's writes one by one, and has what the tests share.

mod ids;
mod room;
mod steps;

use super::{Desired, Planner, TableOp};
use crate::policy::tables::{Action, Delta, Table, Target, Transport};
use egress_ebpf::abi::Policy;
use egress_ebpf::ids::{Generation, PolicyId, TableId};
use std::collections::BTreeMap;
use std::net::IpAddr;

fn delta(old: &Table, new: &Table) -> Delta {
    let gone = old
        .keys()
        .filter(|t| !new.contains_key(*t))
        .map(|t| (*t, None));
    let put = new
        .iter()
        .filter(|(t, a)| old.get(*t) != Some(*a))
        .map(|(t, a)| (*t, Some(*a)));
    gone.chain(put).collect()
}

fn one(ip: &str) -> Table {
    let ip: IpAddr = ip.parse().unwrap();
    Table::from_iter([(Target::address(ip, 443, Transport::Tcp), Action::Allow)])
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

/// The kernel waits for running programs only once for adjacent writes of new or larger tables.
#[test]
fn writes_of_one_kind_stand_together_over_all_tables() {
    let kinds = |ops: &[TableOp]| {
        let mut kinds: Vec<_> = ops.iter().map(std::mem::discriminant).collect();
        kinds.dedup();
        kinds.len()
    };
    let own = |n: u32| one(&format!("10.0.0.{n}"));
    let (shared, all) = (one("192.0.2.1"), one("10.1.0.1"));
    let mut planner = Planner::default();
    let before: Vec<_> = (0..9).map(|n| (n, own(n))).collect();
    let _ = planner.replace(wants(&before));
    let change = |n| (PolicyId(n), delta(&own(n), &all));
    let amended: BTreeMap<_, _> = (0..8).map(change).collect();
    let ops = planner.amend(&amended);
    assert_eq!(kinds(&ops), 3, "puts, deletes, generations: {ops:?}");

    let mut planner = Planner::default();
    let before: Vec<_> = (0..9).map(|n| (n, shared.clone())).collect();
    let _ = planner.replace(wants(&before));
    let change = |n| (PolicyId(n), delta(&shared, &own(n)));
    let moved: BTreeMap<_, _> = (0..8).map(change).collect();
    let ops = planner.update(&moved);
    assert_eq!(kinds(&ops), 2, "puts, policies: {ops:?}");
}
