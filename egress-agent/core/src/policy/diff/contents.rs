//! The content of each kernel table, and the undo of a plan that is not carried out.

use crate::policy::tables::{Delta, Table};
use egress_ebpf::ids::TableId;
use std::collections::BTreeMap;

/// Tables by id; one without content was adopted, so that its content is not known.
#[derive(Debug)]
pub(super) struct Contents {
    tables: BTreeMap<TableId, Option<Table>>,
    /// What undoes each change since [`Self::mark`], the first first.
    undo: Option<Vec<Undo>>,
}

#[derive(Debug)]
enum Undo {
    Remove(TableId),
    Put(TableId, Option<Table>),
    Change(TableId, Delta),
}

impl Contents {
    pub(super) fn new(tables: BTreeMap<TableId, Option<Table>>) -> Self {
        Self { tables, undo: None }
    }

    /// From here on changes can be undone.
    pub(super) fn mark(&mut self) {
        self.undo = Some(Vec::new());
    }

    /// What changed since the mark stays.
    pub(super) fn keep(&mut self) {
        self.undo = None;
    }

    /// Undoes what changed since the mark.
    pub(super) fn go_back(&mut self) {
        for step in self.undo.take().into_iter().flatten().rev() {
            match step {
                Undo::Remove(id) => drop(self.tables.remove(&id)),
                Undo::Put(id, table) => drop(self.tables.insert(id, table)),
                Undo::Change(id, delta) => {
                    if let Some(Some(content)) = self.tables.get_mut(&id) {
                        apply(content, &delta);
                    }
                }
            }
        }
    }

    /// Whether a table stands.
    pub(super) fn has(&self, id: TableId) -> bool {
        self.tables.contains_key(&id)
    }

    /// What a table holds, where that is known.
    pub(super) fn get(&self, id: TableId) -> Option<&Table> {
        self.tables.get(&id)?.as_ref()
    }

    /// Every table's id.
    pub(super) fn ids(&self) -> impl Iterator<Item = TableId> {
        self.tables.keys().copied()
    }

    /// Adds a table.
    pub(super) fn insert(&mut self, id: TableId, content: Table) {
        self.tables.insert(id, Some(content));
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Remove(id));
        }
    }

    /// Removes a table; `gone` gets its content, where that is known.
    pub(super) fn remove(&mut self, id: TableId, gone: impl FnOnce(Option<&Table>)) {
        let Some(content) = self.tables.remove(&id) else {
            return;
        };
        gone(content.as_ref());
        if let Some(undo) = &mut self.undo {
            undo.push(Undo::Put(id, content));
        }
    }

    /// Changes a table whose content is known. Returns whether there is one.
    pub(super) fn change(&mut self, id: TableId, delta: &Delta) -> bool {
        let Some(Some(content)) = self.tables.get_mut(&id) else {
            return false;
        };
        if let Some(undo) = &mut self.undo {
            let before = delta.keys().map(|t| (*t, content.get(t).copied()));
            undo.push(Undo::Change(id, before.collect()));
        }
        apply(content, delta);
        true
    }
}

/// Makes a change of a table's content.
pub(super) fn apply(content: &mut Table, delta: &Delta) {
    for (target, action) in delta {
        match action {
            Some(action) => content.insert(*target, *action),
            None => content.remove(target),
        };
    }
}
