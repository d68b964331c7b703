//! The writes that the shell carries out, each in the form of the kernel's maps. `diff` decides
//! their order.

use super::tables::{Action, Target};
use egress_ebpf::abi::Policy;
use egress_ebpf::ids::{PolicyId, TableId};
use egress_ebpf::table::{Entry, Key};

/// One write to the kernel's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableOp {
    /// Insert an entry into a table, or change its action.
    Put(TableId, Entry),
    /// Remove an entry.
    Delete(TableId, Key),
    /// Write a policy. This puts a new table in force.
    SetPolicy(PolicyId, Policy),
    /// Delete a policy.
    DeletePolicy(PolicyId),
    /// Delete a table that was adopted, so that its content is not known. No policy uses it.
    DropTable(TableId),
}

impl TableOp {
    /// Lists a target in a table.
    pub(super) fn put(table: TableId, target: &Target, action: Action) -> Self {
        let entry = Entry {
            key: target.key(),
            action: action.number(),
        };
        Self::Put(table, entry)
    }

    /// Removes a target from a table.
    pub(super) fn delete(table: TableId, target: &Target) -> Self {
        Self::Delete(table, target.key())
    }
}
