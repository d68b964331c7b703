//! The number of entries in the kernel while a plan is carried out.

use super::wants;
use crate::policy::diff::model::Kernel;
use crate::policy::diff::{Planner, TableOp};
use crate::policy::tables::{Action, Table, Target, Transport};
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
