//! The kernel as the writes of a plan leave it: its tables, and what it makes of a flow.

use crate::policy::diff::TableOp;
use crate::policy::tables::Transport;
use egress_ebpf::abi::{Policy, PrefixData, Rule, RuleKey};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::{Destination, Tables, decide};
use egress_ebpf::verdict::{Reason, Verdict};
use std::collections::BTreeMap;

/// The three maps, and the lookup order of the kernel.
#[derive(Clone, Default, Debug, PartialEq)]
pub(super) struct Kernel {
    pub(super) exact: BTreeMap<RuleKey, Rule>,
    pub(super) prefixes: BTreeMap<(u32, PrefixData), Rule>,
    pub(super) policies: BTreeMap<u32, (u32, u32, u32)>,
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
            TableOp::PutExact(key, rule) => drop(self.exact.insert(key, rule)),
            TableOp::DeleteExact(key) => assert!(self.exact.remove(&key).is_some(), "{key:?}"),
            TableOp::PutPrefix { bits, data, rule } => {
                self.prefixes.insert((bits, data), rule);
            }
            TableOp::DeletePrefix { bits, data } => {
                assert!(self.prefixes.remove(&(bits, data)).is_some(), "{data:?}");
            }
            TableOp::SetPolicy(id, p) => {
                assert_ne!(p.generation, 0);
                self.policies.insert(id, (p.table, p.flags, p.generation));
            }
            TableOp::DeletePolicy(id) => assert!(self.policies.remove(&id).is_some()),
            TableOp::DropTable(table) => {
                self.exact.retain(|k, _| k.table != table);
                self.prefixes.retain(|(_, d), _| d.table != table);
            }
        }
    }

    pub(super) fn judge(&self, policy: u32, addr: Addr, port: u16, transport: Transport) -> Seen {
        let Some(&(table, flags, _)) = self.policies.get(&policy) else {
            return Seen::Deny;
        };
        let policy = Policy {
            table,
            generation: 1,
            flags,
            errno: 0,
        };
        let to = Destination {
            addr,
            port,
            proto: transport.number(),
        };
        // A proxy for UDP is none to the kernel, so it is asked for the entry's own word.
        match decide(self, &policy, &to, || Some(15001)) {
            Verdict::Allow => Seen::Allow,
            Verdict::Proxy | Verdict::Deny(Reason::NoProxy) => Seen::Proxy,
            Verdict::Deny(_) => Seen::Deny,
        }
    }
}

impl Tables for Kernel {
    fn find(&self, table: u32, shortest: u32, to: &Destination) -> Option<Rule> {
        let (addr, port, proto, reserved) = (to.addr, to.port, to.proto, 0);
        let key = RuleKey {
            table,
            port,
            proto,
            reserved,
            addr,
        };
        let exact = self.exact.get(&key).copied();
        let number = crate::policy::numbers::number;
        let covers = |bits: u32, p: &PrefixData, port: u16| {
            let differ = number(p.addr) ^ number(addr);
            let family = !addr.is_v4() || bits == 64 || bits >= 64 + 96;
            bits - 64 >= shortest
                && family
                && (p.table, p.port, p.proto) == (table, port, proto)
                && differ.checked_shr(128 - (bits - 64)).unwrap_or(0) == 0
        };
        let narrowest = |port| {
            self.prefixes
                .iter()
                .filter(|((bits, p), _)| covers(*bits, p, port))
                .max_by_key(|((bits, _), _)| *bits)
                .map(|(_, rule)| *rule)
        };
        exact.or_else(|| narrowest(port)).or_else(|| narrowest(0))
    }
}
