//! The writes that the shell carries out, each in the form of the kernel's maps. In which order they
//! come, `diff` says.

use super::tables::{Action, Target};
use egress_ebpf::abi::{Policy, PrefixData, Rule, RuleKey};

/// One write to the kernel's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableOp {
    /// Insert or overwrite in the exact table.
    PutExact(RuleKey, Rule),
    /// Delete from the exact table.
    DeleteExact(RuleKey),
    /// Insert or overwrite in the prefix table.
    PutPrefix {
        /// Prefix length over the whole of `data`.
        bits: u32,
        /// Key.
        data: PrefixData,
        /// Value.
        rule: Rule,
    },
    /// Delete from the prefix table.
    DeletePrefix {
        /// Prefix length over the whole of `data`.
        bits: u32,
        /// Key.
        data: PrefixData,
    },
    /// Write the policy of this id: the moment in which a new table becomes visible.
    SetPolicy(u32, Policy),
    /// Delete the policy of this id.
    DeletePolicy(u32),
    /// Delete whatever both tables hold under this table id: it was adopted, so its content is
    /// not known here. Nothing looks it up any more.
    DropTable(u32),
}

impl TableOp {
    /// Lists a target in a table.
    pub(super) fn put(table: u32, target: &Target, action: Action) -> Self {
        if target.is_exact() {
            return Self::PutExact(target.rule_key(table), action.rule());
        }
        let (bits, data) = target.prefix_key(table);
        Self::PutPrefix {
            bits,
            data,
            rule: action.rule(),
        }
    }

    /// Takes it out again.
    pub(super) fn delete(table: u32, target: &Target) -> Self {
        if target.is_exact() {
            return Self::DeleteExact(target.rule_key(table));
        }
        let (bits, data) = target.prefix_key(table);
        Self::DeletePrefix { bits, data }
    }
}
