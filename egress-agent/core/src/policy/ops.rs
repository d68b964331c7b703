//! The writes that the shell carries out, each in the form of the kernel's maps. In which order they
//! come, `diff` says.

use super::tables::{Action, Target};
use egress_ebpf::abi::{Policy, PrefixData, Rule, RuleKey};

/// One write to the kernel's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableOp {
    /// List one address on one port, or change what it asks for.
    PutExact(RuleKey, Rule),
    /// Take that out.
    DeleteExact(RuleKey),
    /// List a network, or change what it asks for.
    PutPrefix {
        /// Prefix length over the whole of `data`.
        bits: u32,
        /// Key.
        data: PrefixData,
        /// Value.
        rule: Rule,
    },
    /// Take that out.
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
    /// Delete the table of this id: it was adopted, so its content is not known here. Nothing
    /// looks it up any more.
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
