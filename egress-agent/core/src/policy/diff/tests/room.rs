//! The number of entries in the kernel while a plan is carried out.

use super::{steps, wants};
use crate::policy::diff::model::Kernel;
use crate::policy::diff::{Planner, TableOp};
use crate::policy::room::Room;
use crate::policy::tables::{Action, Table, Target, Transport};
use egress_ebpf::ids::TableId;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::net::IpAddr;

fn many(first: u32, n: u32) -> Table {
    let address = |n: u32| IpAddr::from((0x0a00_0000 + n).to_be_bytes());
    let targets = (first..first + n).map(|n| Target::address(address(n), 443, Transport::Tcp));
    targets.map(|target| (target, Action::Allow)).collect()
}

/// The largest number of entries at one time.
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
    // Every policy gets a table with other content.
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

/// The entries of all tables that a policy uses.
fn entries(kernel: &Kernel) -> [usize; 2] {
    let used: BTreeSet<TableId> = kernel.policies.values().map(|p| p.0).collect();
    let keys = used.iter().flat_map(|id| kernel.tables.entries(*id));
    keys.fold([0, 0], |[exact, networks], entry| {
        let one = usize::from(entry.key.is_exact());
        [exact + one, networks + 1 - one]
    })
}

proptest! {
    /// Room is neither denied to tables that fit, nor given to tables that do not.
    #[test]
    fn the_room_that_is_asked_for_is_the_room_that_is_used(first in steps::desired(), then in steps::desired()) {
        let (mut planner, mut kernel) = (Planner::default(), Kernel::default());
        for (round, desired) in [first, then].into_iter().enumerate() {
            let gone = planner.others(&desired);
            let mut after = kernel.clone();
            let mark = planner.mark();
            for op in planner.replace(desired.clone()) {
                after.apply(&op);
            }
            planner.go_back(mark);
            let used = entries(&after);
            planner = planner.within(Room(used));
            prop_assert_eq!(planner.room_for(&desired, &gone), Ok(()));
            for kind in [0, 1] {
                let mut less = used;
                if round > 0 || less[kind] == 0 {
                    // A table that was changed in place may have become equal to another one.
                    continue;
                }
                less[kind] -= 1;
                planner = planner.within(Room(less));
                prop_assert!(planner.room_for(&desired, &gone).is_err(), "{:?}", less);
            }
            let _ = planner.replace(desired);
            kernel = after;
        }
    }
}
