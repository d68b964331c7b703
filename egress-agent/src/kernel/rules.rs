//! The entries of all rule tables: decides whether there is room for them, and which go into an existing
//! table and which into a new one.
//!
//! Programs see a new table only when it is complete. An existing table is changed in place; if it has no
//! room for an entry, a larger table with the same content replaces it.

use super::outer::Outer;
use super::slots::{Draft, Slots, kind};
use crate::in_use::InUse;
use anyhow::Context as _;
use egress_core::policy::diff::TableOp;
use egress_core::policy::room::{Room, TooMany};
use egress_ebpf::ids::TableId;
use egress_ebpf::table::{Entry, Key, Lengths, MAX_LENGTHS};
use std::collections::{BTreeMap, BTreeSet};

/// Single addresses that all tables together have room for.
const MAX_ADDRESSES: usize = 1 << 22;
/// The most tables that are created and written together. Each is an open file until it is written.
const AT_ONCE: usize = 256;

/// Operations that the tables have no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoRoom {
    /// More entries than the limit.
    #[error(transparent)]
    Entries(#[from] TooMany),
    /// Networks of too many prefix lengths: a lookup would take too long.
    #[error("networks of more than {MAX_LENGTHS} prefix lengths in one table")]
    Lengths,
}

/// See the module.
#[derive(Debug)]
pub struct Rules {
    outer: Outer,
    room: Room,
    live: BTreeMap<TableId, Slots>,
    /// Tables to be created, some of them in place of an existing one.
    drafts: BTreeMap<TableId, Draft>,
    /// Tables to be removed.
    gone: BTreeSet<TableId>,
    /// Deletions of the present operations that are not carried out yet. By as many entries the tables may
    /// exceed the limit, because insertions come before the deletions.
    leaving: [usize; 2],
    /// Entries that found no room, with their actions, until they find some or are deleted.
    left_out: BTreeMap<TableId, BTreeMap<Key, u32>>,
    /// Entries were deleted since the last look at `left_out`.
    freed: bool,
}

impl Rules {
    pub fn of(outer: Outer, max_networks: u32) -> Self {
        Self {
            outer,
            room: Room([MAX_ADDRESSES, max_networks as usize]),
            live: BTreeMap::new(),
            drafts: BTreeMap::new(),
            gone: BTreeSet::new(),
            leaving: [0, 0],
            left_out: BTreeMap::new(),
            freed: false,
        }
    }

    /// The kernel's array of tables.
    pub fn outer(&self) -> &Outer {
        &self.outer
    }

    /// What all tables together have room for.
    pub fn room(&self) -> Room {
        self.room
    }

    /// How full the tables are that this agent wrote: single addresses, and networks.
    pub fn in_use(&self) -> [InUse; 2] {
        let used = self.used();
        [0, 1].map(|kind| InUse {
            used: used[kind],
            limit: self.room.0[kind],
        })
    }

    fn used(&self) -> [usize; 2] {
        let standing = self.live.iter();
        let standing = standing.filter(|(id, _)| !self.drafts.contains_key(id));
        let counts = standing
            .map(|(_, slots)| slots.count())
            .chain(self.drafts.values().map(Draft::count));
        counts.fold([0, 0], |sum, count| [sum[0] + count[0], sum[1] + count[1]])
    }

    /// Whether the tables have room for the entries that they have once all operations are carried out.
    /// Between, they may hold old and new entries together.
    pub fn fits(&self, ops: &[TableOp]) -> Result<(), NoRoom> {
        let mut used = self.used();
        let mut lengths: BTreeMap<TableId, Lengths> = BTreeMap::new();
        for op in ops {
            match op {
                TableOp::Put(id, entry) => {
                    let live = self.live.get(id);
                    if live.is_some_and(|slots| slots.holds(&entry.key)) {
                        continue;
                    }
                    used[kind(&entry.key)] += 1;
                    if !entry.key.is_exact() {
                        let lengths = lengths.entry(*id).or_insert_with(|| {
                            live.map(|slots| slots.draft().lengths())
                                .unwrap_or_default()
                        });
                        if !lengths.add(&entry.key) {
                            return Err(NoRoom::Lengths);
                        }
                    }
                }
                TableOp::Delete(_, key) => {
                    let kind = kind(key);
                    used[kind] = used[kind].saturating_sub(1);
                }
                TableOp::SetPolicy(..) | TableOp::DeletePolicy(_) | TableOp::DropTable(_) => {}
            }
        }
        Ok(self.room.holds(used)?)
    }

    /// Notes the operations that are about to be carried out, in one or more parts.
    pub fn expect(&mut self, ops: &[TableOp]) {
        self.leaving = [0, 0];
        for op in ops {
            if let TableOp::Delete(_, key) = op {
                self.leaving[kind(key)] += 1;
            }
        }
    }

    /// Carries out insertions. Returns how many found no room; [`Self::put_left_out`] tries these again. Programs see
    /// entries of a new table after [`Self::settle`].
    pub fn put(&mut self, ops: &[TableOp]) -> usize {
        let mut used = self.used();
        let mut left_out = 0;
        for op in ops {
            let TableOp::Put(id, entry) = *op else {
                continue;
            };
            if !self.put_one(id, entry, &mut used) {
                let others = self.left_out.entry(id).or_default();
                others.insert(entry.key, entry.action);
                left_out += 1;
            }
        }
        left_out
    }

    /// Inserts entries that found no room before, as far as there is room since entries were deleted.
    pub fn put_left_out(&mut self) {
        if !std::mem::take(&mut self.freed) || self.left_out.is_empty() {
            return;
        }
        let mut used = self.used();
        for (id, mut entries) in std::mem::take(&mut self.left_out) {
            // A table that has no room for one entry may have to be copied to find that out, so its others wait too.
            while let Some((key, action)) = entries.pop_first() {
                if !self.put_one(id, Entry { key, action }, &mut used) {
                    entries.insert(key, action);
                    self.left_out.insert(id, entries);
                    break;
                }
            }
        }
    }

    /// Inserts an entry. Returns whether there is room for it.
    fn put_one(&mut self, id: TableId, entry: Entry, used: &mut [usize; 2]) -> bool {
        let kind = kind(&entry.key);
        let full = used[kind] >= self.room.0[kind] + self.leaving[kind];
        let added = if let Some(draft) = self.drafts.get_mut(&id) {
            (!full && draft.add(entry)).then_some(1)
        } else if let Some(slots) = self.live.get_mut(&id) {
            let more = usize::from(!slots.holds(&entry.key));
            let placed = (!full || more == 0)
                && (slots.put(&entry) || {
                    let mut draft = slots.draft();
                    let added = draft.add(entry);
                    if added {
                        self.drafts.insert(id, draft);
                    }
                    added
                });
            placed.then_some(more)
        } else {
            let mut draft = Draft::default();
            let added = !full && draft.add(entry);
            if added {
                self.drafts.insert(id, draft);
            }
            added.then_some(1)
        };
        used[kind] += added.unwrap_or(0);
        added.is_some()
    }

    /// Carries out deletions, which programs see at once. [`Self::settle`] removes a table that has become
    /// empty.
    pub fn delete(&mut self, ops: &[TableOp]) {
        for op in ops {
            let TableOp::Delete(id, key) = *op else {
                continue;
            };
            let leaving = &mut self.leaving[kind(&key)];
            *leaving = leaving.saturating_sub(1);
            self.freed = true;
            if let Some(others) = self.left_out.get_mut(&id) {
                others.remove(&key);
            }
            if let Some(slots) = self.live.get_mut(&id) {
                slots.delete(&key);
                if slots.count() == [0, 0] {
                    self.drop_table(id);
                }
            }
        }
    }

    /// Removes a table with the next [`Self::settle`].
    pub fn drop_table(&mut self, id: TableId) {
        self.live.remove(&id);
        self.left_out.remove(&id);
        self.freed = true;
        self.gone.insert(id);
    }

    /// Makes new tables visible and removes the retired ones.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let drafts: Vec<_> = std::mem::take(&mut self.drafts).into_iter().collect();
        for some in drafts.chunks(AT_ONCE) {
            let mut made = Vec::new();
            for (id, draft) in some {
                let (slots, array) = Slots::of(draft).with_context(|| {
                    let [exact, nets] = draft.count();
                    format!("creating a table of {exact} addresses and {nets} networks")
                })?;
                made.push((*id, slots, array));
            }
            self.outer.put(&made)?;
            for (id, slots, _) in made {
                self.live.insert(id, slots);
                self.gone.remove(&id);
            }
        }
        let gone: Vec<_> = std::mem::take(&mut self.gone).into_iter().collect();
        if gone.is_empty() {
            Ok(())
        } else {
            self.outer.vacate(&gone)
        }
    }
}
