//! Changes existing tables in place: insertions before deletions, and entries that shadow others first.
//!
//! Owns what happens to a table that several policies share.

use super::{EMPTY_TABLE, Planner, has_prefixes, with_prefixes};
use crate::policy::ops::TableOp;
use crate::policy::tables::Delta;
use egress_ebpf::ids::{PolicyId, TableId};
use std::collections::BTreeMap;

/// The writes of tables that change in place. The writes of all tables are grouped by kind, because the kernel then
/// waits for running programs once for a group, and not once for each table.
#[derive(Default)]
struct InPlace {
    puts: Vec<TableOp>,
    policies: Vec<TableOp>,
    deletes: Vec<TableOp>,
}

impl InPlace {
    fn into_ops(self) -> impl Iterator<Item = TableOp> {
        let before = self.puts.into_iter().chain(self.policies);
        before.chain(self.deletes)
    }
}

impl Planner {
    /// A few rules changed: changes tables in place as [`Self::update`] does, then raises the generation, so that
    /// running flows are judged again. The generation comes last, so that a verdict that is stored with it was made
    /// with the changed table.
    pub fn amend(&mut self, changes: &BTreeMap<PolicyId, Delta>) -> Vec<TableOp> {
        let mut ops = self.update(changes);
        if self.keep_flows {
            return ops;
        }
        let renewed: Vec<PolicyId> = changes
            .iter()
            .filter(|(_, delta)| !delta.is_empty())
            .map(|(id, _)| *id)
            .collect();
        if !renewed.is_empty() {
            self.generation = self.generation.next();
        }
        for id in renewed {
            if let Some(policy) = self.policies.get_mut(&id) {
                policy.generation = self.generation;
                ops.push(TableOp::SetPolicy(id, *policy));
            }
        }
        ops
    }

    /// Addresses of listed names changed: changes tables in place, additions before deletions,
    /// without a new generation, so that flows to an address whose lease ended go on.
    ///
    /// Policies that share a table and change in the same way keep sharing it. A policy that changes differently gets a
    /// table of its own.
    pub fn update(&mut self, changes: &BTreeMap<PolicyId, Delta>) -> Vec<TableOp> {
        let mut ops = Vec::new();
        if changes.is_empty() {
            return ops;
        }
        let mut sharers: BTreeMap<TableId, Vec<PolicyId>> = BTreeMap::new();
        for (id, policy) in &self.policies {
            sharers.entry(policy.table).or_default().push(*id);
        }
        let none = Delta::new();
        let mut in_place = InPlace::default();
        let mut leaving = Vec::new();
        for (table, policies) in sharers {
            let delta = |id: &PolicyId| changes.get(id).unwrap_or(&none);
            let Some(leader) = policies.iter().map(delta).find(|d| !d.is_empty()) else {
                continue;
            };
            let alike = policies.iter().all(|id| delta(id) == leader);
            if alike && table != EMPTY_TABLE {
                self.change_in_place(table, leader, &policies, &mut in_place);
            } else {
                let others = policies.iter().filter(|id| !delta(id).is_empty());
                leaving.extend(others.map(|id| (*id, table)));
            }
        }
        ops.extend(in_place.into_ops());
        // Only after all tables have changed: a table with the content that they need may be one that changes too.
        let mut moved = Vec::new();
        for (id, from) in leaving {
            let delta = changes.get(&id).unwrap_or(&none);
            moved.extend(self.move_out(id, from, delta, &mut ops));
        }
        ops.extend(moved);
        self.sweep(&mut ops);
        ops
    }

    fn change_in_place(
        &mut self,
        table: TableId,
        delta: &Delta,
        policies: &[PolicyId],
        ops: &mut InPlace,
    ) {
        let Some(content) = self.tables.get(table) else {
            return;
        };
        let mut delta = delta.clone();
        delta.retain(|target, action| content.get(target) != action.as_ref());
        self.tables.change(table, &delta);
        let has_prefixes = self.tables.get(table).is_some_and(has_prefixes);
        // Entries that shadow others come first, so that a wider entry is never exposed.
        let puts = delta.iter().rev();
        let puts = puts.filter_map(|(t, a)| a.map(|a| TableOp::put(table, t, a)));
        ops.puts.extend(puts);
        for id in policies {
            let Some(policy) = self.policies.get_mut(id) else {
                continue;
            };
            let flags = with_prefixes(policy.flags, has_prefixes);
            if policy.flags != flags {
                policy.flags = flags;
                ops.policies.push(TableOp::SetPolicy(*id, *policy));
            }
        }
        let deletes = delta.iter().filter(|(_, a)| a.is_none());
        let deletes = deletes.map(|(t, _)| TableOp::delete(table, t));
        ops.deletes.extend(deletes);
    }

    /// Gives a policy a table of its own. Returns the write that makes the policy see it.
    fn move_out(
        &mut self,
        id: PolicyId,
        from: TableId,
        delta: &Delta,
        ops: &mut Vec<TableOp>,
    ) -> Option<TableOp> {
        let mut content = self.tables.get(from)?.clone();
        content.apply(delta);
        let has_prefixes = has_prefixes(&content);
        let table = self.place(id, content, ops);
        let policy = self.policies.get_mut(&id)?;
        policy.table = table;
        policy.flags = with_prefixes(policy.flags, has_prefixes);
        Some(TableOp::SetPolicy(id, *policy))
    }
}
