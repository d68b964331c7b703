//! A model of the kernel after the writes of a plan: its tables and its verdict on a flow.

use crate::policy::diff::TableOp;
use crate::policy::tables::Transport;
use egress_ebpf::abi::Policy;
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::{Destination, decide};
use egress_ebpf::ids::{Generation, PolicyId, TableId};
use egress_ebpf::model::Model;
use egress_ebpf::verdict::{Reason, Verdict};
use std::collections::BTreeMap;

/// The kernel's maps.
#[derive(Clone, Default, Debug, PartialEq)]
pub(super) struct Kernel {
    pub(super) tables: Model,
    pub(super) policies: BTreeMap<PolicyId, (TableId, u32, Generation)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Seen {
    Allow,
    Proxy,
    Deny,
}

impl Kernel {
    pub(super) fn apply(&mut self, op: &TableOp) {
        match *op {
            TableOp::Put(table, entry) => self.tables.put(table, entry),
            TableOp::Delete(table, key) => assert!(self.tables.delete(table, key), "{key:?}"),
            TableOp::SetPolicy(id, p) => {
                assert_ne!(p.generation, Generation::NEVER);
                self.policies.insert(id, (p.table, p.flags, p.generation));
            }
            TableOp::DeletePolicy(id) => assert!(self.policies.remove(&id).is_some()),
            TableOp::DropTable(table) => self.tables.drop_table(table),
        }
    }

    pub(super) fn judge(
        &self,
        policy: PolicyId,
        addr: Addr,
        port: u16,
        transport: Transport,
    ) -> Seen {
        let Some(&(table, flags, _)) = self.policies.get(&policy) else {
            return Seen::Deny;
        };
        let policy = Policy {
            table,
            generation: Generation(1),
            flags,
            errno: 0,
        };
        let to = Destination {
            addr,
            port,
            proto: transport.number(),
        };
        // A proxy for UDP is none to the kernel, so it is asked for the entry's own word.
        match decide(&self.tables, &policy, &to, || Some(15001)) {
            Verdict::Allow => Seen::Allow,
            Verdict::Proxy | Verdict::Dns | Verdict::Deny(Reason::NoProxy) => Seen::Proxy,
            Verdict::Deny(_) => Seen::Deny,
        }
    }
}
