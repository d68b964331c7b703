//! The rule tables as the host keeps them, and a packet as the host reads it.

use egress_ebpf::abi::{PrefixData, Rule, RuleKey};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::{Destination, Tables};
use egress_ebpf::packet::Packet;
use std::collections::BTreeMap;

/// The same tables on the host.
#[derive(Default)]
pub struct Model {
    pub exact: BTreeMap<RuleKey, Rule>,
    pub prefixes: BTreeMap<(u32, PrefixData), Rule>,
}

/// An address as one number.
pub fn number(a: &Addr) -> u128 {
    a.be.iter()
        .fold(0, |n, w| (n << 32) | u128::from(u32::from_be(*w)))
}

impl Tables for Model {
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
        let covers = |bits: u32, network: &Addr| {
            // Between none and 96 bits it is a network of IPv6.
            let family = !addr.is_v4() || bits >= 96;
            bits == 0 || (family && (number(network) ^ number(&addr)) >> (128 - bits) == 0)
        };
        let narrowest = |port: u16| {
            self.prefixes
                .iter()
                .filter(|((bits, p), _)| {
                    *bits >= shortest
                        && (p.table, p.port, p.proto) == (table, port, proto)
                        && covers(*bits, &p.addr)
                })
                .max_by_key(|((bits, _), _)| *bits)
                .map(|(_, rule)| *rule)
        };
        exact.or_else(|| narrowest(port)).or_else(|| narrowest(0))
    }
}

/// A packet from its IP header on.
pub struct Bytes<'a>(pub &'a [u8]);

impl Packet for Bytes<'_> {
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let at = usize::try_from(offset).ok()?;
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }
}
