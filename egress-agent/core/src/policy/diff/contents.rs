//! The content of each kernel table, and the undo of a plan that is not carried out.

use crate::policy::tables::{Delta, Table};
use egress_ebpf::ids::TableId;
use std::collections::{BTreeMap, BTreeSet};

/// Tables by id.
#[derive(Debug, Default)]
pub(super) struct Contents {
    tables: BTreeMap<TableId, Stands>,
    /// Tables whose content is known, by its sum.
    by_sum: BTreeSet<(u64, TableId)>,
    /// The undo of each change since [`Self::mark`], in the order of the changes.
    undo: Option<Vec<Undo>>,
}

/// An existing table.
#[derive(Debug)]
enum Stands {
    /// It was adopted, so that its content is not known.
    Adopted,
    Known(Table),
}

impl Stands {
    fn known(&self) -> Option<&Table> {
        match self {
            Self::Adopted => None,
            Self::Known(content) => Some(content),
        }
    }
}

#[derive(Debug)]
enum Undo {
    Remove(TableId),
    Put(TableId, Stands),
    Change(TableId, Delta),
}

impl Contents {
    /// Starts with adopted tables, and the empty one.
    pub(super) fn new(adopted: impl IntoIterator<Item = TableId>, empty: TableId) -> Self {
        let mut new = Self::default();
        for id in adopted {
            new.put(id, Stands::Adopted);
        }
        new.put(empty, Stands::Known(Table::new()));
        new
    }

    /// From here on changes can be undone.
    pub(super) fn mark(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// Keeps the changes since the mark.
    pub(super) fn keep(&mut self) {
        self.undo = None;
    }

    /// Undoes the changes since the mark.
    pub(super) fn go_back(&mut self) {
        for step in self.undo.take().into_iter().flatten().rev() {
            match step {
                Undo::Remove(id) => drop(self.take(id)),
                Undo::Put(id, table) => self.put(id, table),
                Undo::Change(id, delta) => self.alter(id, &delta),
            }
        }
    }

    /// Whether a table exists.
    pub(super) fn has(&self, id: TableId) -> bool {
        self.tables.contains_key(&id)
    }

    /// The content of a table, if it is known.
    pub(super) fn get(&self, id: TableId) -> Option<&Table> {
        self.tables.get(&id)?.known()
    }

    /// A table with this content.
    pub(super) fn find(&self, content: &Table) -> Option<TableId> {
        let sum = content.sum();
        let same = self
            .by_sum
            .range((sum, TableId(0))..=(sum, TableId(u32::MAX)));
        same.map(|(_, id)| *id)
            .find(|id| self.get(*id) == Some(content))
    }

    /// Every table's id.
    pub(super) fn ids(&self) -> impl Iterator<Item = TableId> {
        self.tables.keys().copied()
    }

    /// The highest id.
    pub(super) fn last(&self) -> Option<TableId> {
        self.tables.keys().next_back().copied()
    }

    /// Adds a table.
    pub(super) fn insert(&mut self, id: TableId, content: Table) {
        self.put(id, Stands::Known(content));
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Remove(id));
        }
    }

    /// Removes a table. `gone` gets its content, if it is known.
    pub(super) fn remove(&mut self, id: TableId, gone: impl FnOnce(Option<&Table>)) {
        let Some(table) = self.take(id) else {
            return;
        };
        gone(table.known());
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Put(id, table));
        }
    }

    /// Makes the table share an equal content that is elsewhere in memory.
    pub(super) fn share(&mut self, id: TableId, content: &Table) {
        if let Some(Stands::Known(held)) = self.tables.get_mut(&id)
            && held == content
        {
            *held = content.clone();
        }
    }

    /// Changes a table whose content is known.
    pub(super) fn change(&mut self, id: TableId, delta: &Delta) {
        let Some(content) = self.get(id) else {
            return;
        };
        let before = delta.keys().map(|t| (*t, content.get(t).copied()));
        let before = before.collect();
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Change(id, before));
        }
        self.alter(id, delta);
    }

    fn put(&mut self, id: TableId, table: Stands) {
        if let Some(held) = table.known() {
            self.by_sum.insert((held.sum(), id));
        }
        self.tables.insert(id, table);
    }

    fn take(&mut self, id: TableId) -> Option<Stands> {
        let table = self.tables.remove(&id)?;
        if let Some(held) = table.known() {
            self.by_sum.remove(&(held.sum(), id));
        }
        Some(table)
    }

    fn alter(&mut self, id: TableId, delta: &Delta) {
        let Some(Stands::Known(held)) = self.tables.get_mut(&id) else {
            return;
        };
        self.by_sum.remove(&(held.sum(), id));
        held.apply(delta);
        self.by_sum.insert((held.sum(), id));
    }
}
