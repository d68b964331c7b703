//! Gives policies other tables, and ends policies.
//!
//! Owns how many entries exist twice during that: a table that changes little changes in place, and other tables are
//! replaced in batches, so that old and new tables together need little more room than either.

use super::{Desired, EMPTY_TABLE, Planner, flags};
use crate::policy::ops::TableOp;
use crate::policy::tables::{Delta, Table, Target};
use egress_ebpf::abi::{Policy, policy_flag};
use egress_ebpf::ids::{Generation, PolicyId, TableId};
use egress_ebpf::table::MAX_LENGTHS;
use imbl::ordmap::DiffItem;
use std::collections::{BTreeMap, BTreeSet};

/// After this many entries of new tables, the replaced tables are deleted before further tables are filled.
const BATCH: usize = if cfg!(test) { 4 } else { 1 << 16 };

impl Planner {
    pub(super) fn put_in_force(
        &mut self,
        mut desired: BTreeMap<PolicyId, Desired>,
        gone: &[PolicyId],
        ops: &mut Vec<TableOp>,
    ) {
        let in_place = self.changes_in_place(&desired);
        desired.retain(|id, _| !in_place.contains_key(id));
        ops.extend(self.amend(&in_place));
        let mut generation = Generation::NEVER;
        let mut switched = Vec::new();
        let mut filled = ops.len();
        for (id, desired) in desired {
            let flags = flags(&desired);
            let errno = desired.errno;
            let table = self.place(id, desired.table, ops);
            let before = self.policies.get(&id).copied();
            if before.is_some_and(|p| (p.table, p.flags, p.errno) == (table, flags, errno)) {
                continue;
            }
            // A flow that only an audit allowed was not listed, and one to a DNS server may have to be redirected, so
            // they must be judged again.
            let judges = |flags: u32| flags & (policy_flag::AUDIT | policy_flag::DNS);
            let kept = before.filter(|p| self.keep_flows && judges(p.flags) == judges(flags));
            if kept.is_none() && generation == Generation::NEVER {
                self.generation = self.generation.next();
                generation = self.generation;
            }
            let policy = Policy {
                table,
                generation: kept.map_or(generation, |p| p.generation),
                flags,
                errno,
            };
            self.policies.insert(id, policy);
            switched.push(TableOp::SetPolicy(id, policy));
            if ops.len() - filled >= BATCH {
                ops.append(&mut switched);
                self.sweep(ops);
                filled = ops.len();
            }
        }
        ops.append(&mut switched);
        for id in gone {
            if self.policies.remove(id).is_some() {
                ops.push(TableOp::DeletePolicy(*id));
            }
        }
        self.sweep(ops);
    }

    /// The changes of tables that only one policy uses and that change by at most half of their entries. Leaves out
    /// policies whose flags or errno change too, because these must change together with the table, in one write.
    fn changes_in_place(&self, desired: &BTreeMap<PolicyId, Desired>) -> BTreeMap<PolicyId, Delta> {
        let mut users: BTreeMap<TableId, usize> = BTreeMap::new();
        for policy in self.policies.values() {
            *users.entry(policy.table).or_default() += 1;
        }
        let mut changes = BTreeMap::new();
        for (id, desired) in desired {
            let Some(policy) = self.policies.get(id) else {
                continue;
            };
            let other = (policy.flags ^ flags(desired)) & !policy_flag::HAS_PREFIXES;
            let alone = users.get(&policy.table) == Some(&1) && policy.table != EMPTY_TABLE;
            if other != 0 || policy.errno != desired.errno || !alone {
                continue;
            }
            if let Some(content) = self.tables.get(policy.table)
                && let Some(delta) = difference(content, &desired.table, content.len() / 2)
                && !delta.is_empty()
                && lengths(content).union(&lengths(&desired.table)).count() <= MAX_LENGTHS
                && self.tables.find(&desired.table).is_none()
            {
                changes.insert(*id, delta);
            }
        }
        changes
    }
}

/// The prefix lengths of a table's networks, which sort before single addresses.
fn lengths(table: &Table) -> BTreeSet<u8> {
    let networks = table.keys().take_while(|target| !target.is_exact());
    networks.map(Target::bits).collect()
}

/// The difference between two contents; `None` if it has more than `most` entries.
fn difference(old: &Table, new: &Table, most: usize) -> Option<Delta> {
    if old.len().abs_diff(new.len()) > most {
        return None;
    }
    let changes = old.diff(new).map(|item| match item {
        DiffItem::Add(target, action)
        | DiffItem::Update {
            new: (target, action),
            ..
        } => (*target, Some(*action)),
        DiffItem::Remove(target, _) => (*target, None),
    });
    let delta: Delta = changes.take(most + 1).collect();
    (delta.len() <= most).then_some(delta)
}
