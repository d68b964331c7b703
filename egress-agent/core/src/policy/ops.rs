//! The writes that the shell carries out, each in the form of the kernel's maps. `diff` decides
//! their order.

use super::tables::{Action, Target};
use egress_ebpf::abi::Policy;
use egress_ebpf::ids::{PolicyId, TableId};
use egress_ebpf::table::{Entry, Key};

/// One write to the kernel's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableOp {
    /// List an address on a port or a network in the table of this id, or change what it asks for.
    Put(TableId, Entry),
    /// Take that out.
    Delete(TableId, Key),
    /// Write the policy of this id: the moment in which a new table becomes visible.
    SetPolicy(PolicyId, Policy),
    /// Delete the policy of this id.
    DeletePolicy(PolicyId),
    /// Delete the table of this id: it was adopted, so its content is not known here. Nothing
    /// looks it up any more.
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

    /// Takes it out again.
    pub(super) fn delete(table: TableId, target: &Target) -> Self {
        Self::Delete(table, target.key())
    }
}
