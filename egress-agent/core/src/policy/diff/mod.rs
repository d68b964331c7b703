//! An ordered list of writes that turns the kernel's present tables into the desired ones.
//!
//! Owns table ids, generations and the order. If the writes are applied in order, no step allows a
//! destination that neither the old nor the new rules list, and no step denies one that both list.
//! The shell carries the writes out.

mod amend;
mod contents;
mod in_force;
#[cfg(test)]
mod model;

pub use super::ops::TableOp;
use super::tables::{Delta, Table};
use contents::Contents;
use egress_ebpf::abi::{MAX_TABLES, Policy, policy_flag};
use egress_ebpf::ids::{Generation, PolicyId, TableId};
use std::collections::{BTreeMap, BTreeSet};

/// What one policy should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Content of its table.
    pub table: Table,
    /// `outboundTrafficPolicy: ALLOW_ANY`.
    pub allow_any: bool,
    /// Nothing is denied; what would be denied is recorded.
    pub audit: bool,
    /// [`Policy::errno`].
    pub errno: u32,
}

/// What the kernel holds, as far as this agent wrote or adopted it.
#[derive(Debug)]
pub struct Planner {
    /// See [`Self::keeping_flows`].
    keep_flows: bool,
    tables: Contents,
    policies: BTreeMap<PolicyId, Policy>,
    /// The table id that was given out last.
    last_table: TableId,
    /// Highest generation ever used.
    generation: Generation,
}

/// How a planner was before a plan: the words of its policies; what the plan changes in tables is
/// noted beside them.
#[derive(Debug)]
pub struct Mark {
    policies: BTreeMap<PolicyId, Policy>,
    last_table: TableId,
    generation: Generation,
}

/// Table 0 is empty by definition and never written.
const EMPTY_TABLE: TableId = TableId(0);

impl Default for Planner {
    fn default() -> Self {
        Self::adopt(BTreeMap::new(), [])
    }
}

impl Planner {
    /// Starts from pinned maps: the policies that stand there, and every table id that has an
    /// entry. They stay in force until the first [`Self::replace`].
    pub fn adopt(
        policies: BTreeMap<PolicyId, Policy>,
        tables: impl IntoIterator<Item = TableId>,
    ) -> Self {
        let adopted = policies.values().map(|p| p.table);
        let tables = Contents::new(tables.into_iter().chain(adopted), EMPTY_TABLE);
        Self {
            keep_flows: false,
            last_table: tables.last().unwrap_or(EMPTY_TABLE),
            generation: policies
                .values()
                .map(|p| p.generation)
                .max()
                .unwrap_or_default(),
            tables,
            policies,
        }
    }

    /// Gives out no generation up to this one: sockets may remember those of policies that are gone.
    #[must_use]
    pub fn above(mut self, generation: Generation) -> Self {
        self.generation = self.generation.max(generation);
        self
    }

    /// From here on a rules change leaves the generation of a policy that stands as it is, so that
    /// sockets continue under the verdict that they have; only what is new is judged by the new
    /// table.
    #[must_use]
    pub fn keeping_flows(mut self, keep: bool) -> Self {
        self.keep_flows = keep;
        self
    }

    /// From here on what is planned can be taken back with [`Self::go_back`], or stays with
    /// [`Self::keep`].
    pub fn mark(&mut self) -> Mark {
        self.tables.mark();
        Mark {
            policies: self.policies.clone(),
            last_table: self.last_table,
            generation: self.generation,
        }
    }

    /// What was planned since the mark is carried out.
    pub fn keep(&mut self) {
        self.tables.keep();
    }

    /// What was planned since the mark is not carried out.
    pub fn go_back(&mut self, mark: Mark) {
        self.tables.go_back();
        self.policies = mark.policies;
        self.last_table = mark.last_table;
        self.generation = mark.generation;
    }

    /// Whether no policy that stands lists anything: no agent wrote rules here before.
    pub fn lists_nothing(&self) -> bool {
        self.policies
            .values()
            .all(|p| p.table == EMPTY_TABLE && p.flags == 0)
    }

    /// The generation that was given out last.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Policies as the kernel has them.
    pub fn policies(&self) -> &BTreeMap<PolicyId, Policy> {
        &self.policies
    }

    /// Sockets that were judged under these policies are judged again: each policy that stands gets
    /// a generation that none had before.
    pub fn renew(&mut self, ids: impl IntoIterator<Item = PolicyId>) -> Vec<TableOp> {
        let mut ops = Vec::new();
        for id in ids {
            if let Some(policy) = self.policies.get_mut(&id) {
                self.generation = self.generation.next();
                policy.generation = self.generation;
                ops.push(TableOp::SetPolicy(id, *policy));
            }
        }
        ops
    }

    /// The rules changed: fills new tables, makes each policy see its own in one write, then
    /// deletes what nothing looks up. A policy whose content stays keeps its table, its
    /// generation and the verdicts that sockets remember.
    pub fn replace(&mut self, desired: BTreeMap<PolicyId, Desired>) -> Vec<TableOp> {
        let standing = self.policies.keys();
        let gone: Vec<_> = standing
            .filter(|id| !desired.contains_key(id))
            .copied()
            .collect();
        let mut ops = Vec::new();
        self.put_in_force(desired, &gone, &mut ops);
        ops
    }

    /// Some policies changed as [`Self::amend`] says, these are to be made or rebuilt, and these
    /// end. The others stay as they are.
    pub fn change(
        &mut self,
        amended: &BTreeMap<PolicyId, Delta>,
        made: BTreeMap<PolicyId, Desired>,
        ended: &[PolicyId],
    ) -> Vec<TableOp> {
        let mut ops = self.amend(amended);
        self.put_in_force(made, ended, &mut ops);
        ops
    }

    /// Finds a table with this content or fills one that nothing looks up yet.
    fn place(&mut self, policy: PolicyId, content: Table, ops: &mut Vec<TableOp>) -> TableId {
        let current = self.policies.get(&policy).map(|p| p.table);
        if let Some(current) = current.filter(|id| self.tables.get(*id) == Some(&content)) {
            return current;
        }
        if let Some(same) = self.tables.find(&content) {
            return same;
        }
        let id = self.unused_id();
        ops.extend(
            content
                .iter()
                .map(|(target, action)| TableOp::put(id, target, *action)),
        );
        self.tables.insert(id, content);
        id
    }

    fn unused_id(&mut self) -> TableId {
        loop {
            self.last_table = TableId((self.last_table.0 + 1) % MAX_TABLES);
            // The empty table is always there, so 0 is never given out.
            if !self.tables.has(self.last_table) {
                return self.last_table;
            }
        }
    }

    fn sweep(&mut self, ops: &mut Vec<TableOp>) {
        let used: BTreeSet<TableId> = self.policies.values().map(|p| p.table).collect();
        let unused: Vec<TableId> = self
            .tables
            .ids()
            .filter(|id| *id != EMPTY_TABLE && !used.contains(id))
            .collect();
        for id in unused {
            self.tables.remove(id, |content| match content {
                Some(content) => {
                    ops.extend(content.keys().map(|target| TableOp::delete(id, target)));
                }
                None => ops.push(TableOp::DropTable(id)),
            });
        }
    }
}

fn flags(desired: &Desired) -> u32 {
    let any = if desired.allow_any {
        policy_flag::ALLOW_ANY
    } else {
        0
    };
    let audit = if desired.audit { policy_flag::AUDIT } else { 0 };
    with_prefixes(any | audit, has_prefixes(&desired.table))
}

/// Prefixes sort before single addresses.
fn has_prefixes(table: &Table) -> bool {
    table.keys().next().is_some_and(|t| !t.is_exact())
}

const fn with_prefixes(flags: u32, has: bool) -> u32 {
    if has {
        flags | policy_flag::HAS_PREFIXES
    } else {
        flags & !policy_flag::HAS_PREFIXES
    }
}

#[cfg(test)]
mod tests;
