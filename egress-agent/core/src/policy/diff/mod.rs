//! Plans the writes that turn the kernel's present tables into the desired ones.
//!
//! Owns table ids, generations and the order of the writes. If they are applied in this order, no step allows a
//! destination that neither the old nor the new rules list, and no step denies one that both list. The shell carries
//! them out.

mod amend;
mod contents;
mod in_force;
#[cfg(test)]
mod model;

pub use super::ops::TableOp;
use super::room::{Room, TooMany};
use super::tables::Table;
use contents::Contents;
use egress_ebpf::abi::{MAX_TABLES, Policy, policy_flag};
use egress_ebpf::ids::{Generation, PolicyId, TableId};
use std::collections::{BTreeMap, BTreeSet};

/// The desired state of a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// Content of its table.
    pub table: Table,
    /// `outboundTrafficPolicy: ALLOW_ANY`.
    pub allow_any: bool,
    /// Nothing is denied. Flows that would be denied are recorded.
    pub audit: bool,
    /// Queries to DNS servers go to the agent's own.
    pub dns: bool,
    /// [`Policy::errno`].
    pub errno: u32,
}

/// The content of the kernel's maps, as far as this agent wrote or adopted it.
#[derive(Debug)]
pub struct Planner {
    /// See [`Self::keeping_flows`].
    keep_flows: bool,
    /// See [`Self::within`].
    room: Option<Room>,
    tables: Contents,
    policies: BTreeMap<PolicyId, Policy>,
    /// The table id that was given out last.
    last_table: TableId,
    /// Highest generation ever used.
    generation: Generation,
}

/// The state of a planner before a plan, except for the tables, which record their own changes.
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
    /// Starts from pinned maps: the existing policies, and every table id in use. They stay in force until the first
    /// [`Self::replace`].
    pub fn adopt(
        policies: BTreeMap<PolicyId, Policy>,
        tables: impl IntoIterator<Item = TableId>,
    ) -> Self {
        let adopted = policies.values().map(|p| p.table);
        let tables = Contents::new(tables.into_iter().chain(adopted), EMPTY_TABLE);
        Self {
            keep_flows: false,
            room: None,
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

    /// Uses only generations above this one, because sockets may remember generations of deleted policies.
    #[must_use]
    pub fn above(mut self, generation: Generation) -> Self {
        self.generation = self.generation.max(generation);
        self
    }

    /// Sets the room that [`Self::room_for`] judges by.
    #[must_use]
    pub fn within(mut self, room: Room) -> Self {
        self.room = Some(room);
        self
    }

    /// Sets whether a rules change keeps the generation of an existing policy. If it does, running flows continue
    /// under their stored verdict, and only new flows are judged by the new table.
    #[must_use]
    pub fn keeping_flows(mut self, keep: bool) -> Self {
        self.keep_flows = keep;
        self
    }

    /// Starts a plan, which [`Self::go_back`] undoes and [`Self::keep`] confirms.
    pub fn mark(&mut self) -> Mark {
        self.tables.mark();
        Mark {
            policies: self.policies.clone(),
            last_table: self.last_table,
            generation: self.generation,
        }
    }

    /// Confirms what was planned since the mark.
    pub fn keep(&mut self) {
        self.tables.keep();
    }

    /// Undoes what was planned since the mark.
    pub fn go_back(&mut self, mark: Mark) {
        self.tables.go_back();
        self.policies = mark.policies;
        self.last_table = mark.last_table;
        self.generation = mark.generation;
    }

    /// Makes a policy's table share an equal content that is elsewhere in memory.
    pub fn share(&mut self, id: PolicyId, content: &Table) {
        if let Some(policy) = self.policies.get(&id) {
            self.tables.share(policy.table, content);
        }
    }

    /// Whether no existing policy lists anything, so no agent has written rules before.
    pub fn lists_nothing(&self) -> bool {
        self.policies
            .values()
            .all(|p| p.table == EMPTY_TABLE && p.flags == 0)
    }

    /// The latest generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The policies in the kernel.
    pub fn policies(&self) -> &BTreeMap<PolicyId, Policy> {
        &self.policies
    }

    /// Gives each of these policies a new generation, so that sockets that were judged under them are judged again.
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

    /// Whether the tables have room for all entries once these policies are made or rebuilt and others have ended.
    /// Counts each content once, and does not walk through the entries: more than fit need not be planned.
    ///
    /// # Errors
    /// There are too many. The tables of a previous agent do not count.
    pub fn room_for(
        &self,
        made: &BTreeMap<PolicyId, Desired>,
        ended: &[PolicyId],
    ) -> Result<(), TooMany> {
        let Some(room) = self.room.filter(|_| !made.is_empty()) else {
            return Ok(());
        };
        let stays = |id: &PolicyId| !made.contains_key(id) && !ended.contains(id);
        let stand = self.policies.iter().filter(|(id, _)| stays(id));
        let stand = stand.filter_map(|(_, policy)| self.tables.get(policy.table));
        let all = stand.chain(made.values().map(|desired| &desired.table));
        let all: BTreeSet<_> = all.map(|table| (table.sum(), table.count())).collect();
        let count = all.iter().fold([0, 0], |sum, (_, count)| {
            [sum[0] + count[0], sum[1] + count[1]]
        });
        room.holds(count)
    }

    /// All rules changed: fills new tables, switches each policy to its own in one write, then deletes unused tables.
    /// A policy whose content does not change keeps its table, its generation and the verdicts that sockets
    /// store.
    pub fn replace(&mut self, desired: BTreeMap<PolicyId, Desired>) -> Vec<TableOp> {
        let gone = self.others(&desired);
        self.make(desired, &gone)
    }

    /// The existing policies that are not among these.
    pub fn others(&self, desired: &BTreeMap<PolicyId, Desired>) -> Vec<PolicyId> {
        let standing = self.policies.keys();
        standing
            .filter(|id| !desired.contains_key(id))
            .copied()
            .collect()
    }

    /// Makes or rebuilds some policies and ends others. Policies that are not named stay as they are.
    pub fn make(&mut self, made: BTreeMap<PolicyId, Desired>, ended: &[PolicyId]) -> Vec<TableOp> {
        let mut ops = Vec::new();
        self.put_in_force(made, ended, &mut ops);
        ops
    }

    /// Finds a table with this content, or fills a new one.
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
            // The empty table always exists, so 0 is never used.
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
    let dns = if desired.dns { policy_flag::DNS } else { 0 };
    with_prefixes(any | audit | dns, has_prefixes(&desired.table))
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
