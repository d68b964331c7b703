//! The content of one policy's kernel table: the union of the claims of all services.
//!
//! Owns the form of an entry and the rule for two claims on one entry. `claims` decides what a service claims, and
//! `diff` decides the order of the writes.

use super::numbers;
use crate::sharing::share;
use egress_ebpf::abi::{action, proto};
use egress_ebpf::addr::Addr;
use egress_ebpf::table::Key;
use imbl::OrdMap;
use ipnet::IpNet;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

/// Prefix length of a single address.
const FULL: u8 = 128;
/// Bits of the mapped form before an IPv4 address.
const MAPPED_BITS: u8 = 96;

/// A transport that tables can list.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => proto::TCP,
            Self::Udp => proto::UDP,
        }
    }
}

/// What happens to a flow that an entry covers. Of two claims the greater one counts, because the proxy can
/// distinguish claims by name and the kernel cannot.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// It is allowed.
    Allow,
    /// It is redirected to the proxy.
    Proxy,
}

impl Action {
    /// As stored in the map.
    pub const fn number(self) -> u32 {
        match self {
            Self::Allow => action::ALLOW,
            Self::Proxy => action::PROXY,
        }
    }
}

/// What an entry covers: its key without the table's id. The order is the reverse of the kernel's lookup (exact,
/// prefix on the port, prefix on any port, longest first). An entry that another one shadows comes before it, so
/// that deleting in order never exposes a third verdict.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Target {
    bits: u8,
    /// Destination port; 0 = any.
    port: u16,
    transport: Transport,
    addr: Addr,
}

impl Target {
    /// One address, in canonical form. Port 0 means any port, which makes it a network of one address, because the
    /// kernel looks up single addresses with the dialled port.
    pub fn address(ip: impl Into<Addr>, port: u16, transport: Transport) -> Self {
        Self {
            bits: FULL,
            port,
            transport,
            addr: ip.into().canonical(),
        }
    }

    /// Any address of either family.
    pub const fn any(port: u16, transport: Transport) -> Self {
        Self {
            bits: 0,
            port,
            transport,
            addr: Addr::UNSPECIFIED,
        }
    }

    /// The entries for one CIDR; host bits are ignored. `::/0` has two entries, one for each half, because a prefix of
    /// 0 bits covers both families.
    pub fn network(net: IpNet, port: u16, transport: Transport) -> Vec<Self> {
        let entry = |bits: u8, value: u128| {
            let mask = u128::MAX.checked_shl(u32::from(FULL - bits)).unwrap_or(0);
            let addr = numbers::addr(value & mask);
            if bits == FULL {
                Self::address(addr, port, transport)
            } else {
                Self {
                    bits,
                    port,
                    transport,
                    addr,
                }
            }
        };
        let value = numbers::number(net.addr().into());
        match net {
            IpNet::V4(v4) => vec![entry(MAPPED_BITS + v4.prefix_len(), value)],
            IpNet::V6(v6) => match v6.prefix_len() {
                0 => vec![entry(1, 0), entry(1, u128::MAX)],
                bits => vec![entry(bits, value)],
            },
        }
    }

    /// Length of the network, of 128 bits; IPv4 is counted in its mapped form.
    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// Whether this is one address on one port, not a network.
    pub const fn is_exact(&self) -> bool {
        self.bits == FULL && self.port != 0
    }

    /// Port; 0 = any.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Transport.
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether the entry covers a flow to this destination. With 1 to 95 bits it is an IPv6 network and covers no IPv4
    /// address, although the mapped form may be in its range.
    pub fn covers(&self, addr: Addr, port: u16, transport: Transport) -> bool {
        let addr = addr.canonical();
        let differ = numbers::number(addr) ^ numbers::number(self.addr);
        let family = !addr.is_v4() || self.bits == 0 || self.bits >= MAPPED_BITS;
        self.transport == transport
            && family
            && (self.port == 0 || self.port == port)
            && differ.checked_shr(u32::from(FULL - self.bits)).unwrap_or(0) == 0
    }

    /// As stored in the table.
    pub fn key(&self) -> Key {
        Key::new(self.addr, self.port, self.transport.number(), self.bits)
    }
}

impl Ord for Target {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |t: &Self| (t.is_exact(), t.port, t.bits, t.transport, t.addr);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Target {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ip, transport) = (IpAddr::from(self.addr), self.transport);
        write!(f, "{ip}/{} port {} {transport:?}", self.bits, self.port)
    }
}

/// What one service claims.
pub type Claims = BTreeMap<Target, Action>;

/// Adds a claim. Of two on one target, the greater one counts.
pub fn claim(claims: &mut Claims, target: Target, action: Action) {
    let held = claims.entry(target).or_insert(action);
    *held = action.max(*held);
}

/// A table's content. Equal content is one table in the kernel. A copy shares what does not change
/// after it.
pub type Table = OrdMap<Target, Action>;

/// The changes of a table: for each target the new action, or `None` if it is removed.
pub type Delta = BTreeMap<Target, Option<Action>>;

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
struct Holders {
    allow: u32,
    proxy: u32,
}

impl Holders {
    /// The count for a single claim.
    const fn one(action: Action) -> Self {
        match action {
            Action::Allow => Self { allow: 1, proxy: 0 },
            Action::Proxy => Self { allow: 0, proxy: 1 },
        }
    }

    const fn action(self) -> Option<Action> {
        match self {
            Self { proxy: 1.., .. } => Some(Action::Proxy),
            Self { allow: 1.., .. } => Some(Action::Allow),
            Self { .. } => None,
        }
    }

    const fn side(&mut self, action: Action) -> &mut u32 {
        match action {
            Action::Allow => &mut self.allow,
            Action::Proxy => &mut self.proxy,
        }
    }
}

/// Every claim of one policy, counted, so that one service can change without the others.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The action of each target. A target that is not in `several` has one claim.
    table: Table,
    /// Targets with more than one claim.
    several: OrdMap<Target, Holders>,
}

impl Ledger {
    /// Replaces one service's claims. Returns the changes of the table. `old` must be the claims that were given as
    /// `new` before.
    pub fn replace(&mut self, old: &Claims, new: &Claims) -> Delta {
        let mut before: Delta = BTreeMap::new();
        let came = new.iter().filter(|(t, a)| old.get(t) != Some(a));
        let left = old.iter().filter(|(t, a)| new.get(t) != Some(a));
        let changes = came.map(|c| (c, 1)).chain(left.map(|c| (c, -1)));
        for ((target, action), by) in changes {
            let mut holders = self.holders(target);
            before.entry(*target).or_insert(holders.action());
            let side = holders.side(*action);
            *side = side.saturating_add_signed(by);
            self.set(*target, holders);
        }
        let holds = |t: &Target| self.action(t);
        before
            .into_iter()
            .map(|(t, was)| (t, was, holds(&t)))
            .filter(|(_, was, is)| was != is)
            .map(|(t, _, is)| (t, is))
            .collect()
    }

    /// The action for a target, if it is claimed.
    pub fn action(&self, target: &Target) -> Option<Action> {
        self.table.get(target).copied()
    }

    /// The claimed targets that cover a flow.
    pub fn covering(&self, addr: Addr, port: u16, via: Transport) -> Vec<Target> {
        let exact = Target::address(addr, port, via);
        let exact = Some(exact).filter(|target| self.table.contains_key(target));
        // Networks come before all single addresses.
        let networks = self.table.keys().take_while(|target| !target.is_exact());
        let networks = networks.filter(|target| target.covers(addr, port, via));
        networks.copied().chain(exact).collect()
    }

    /// The table as a whole.
    pub fn table(&self) -> Table {
        self.table.clone()
    }

    /// Shares the parts that are equal in another ledger.
    pub(super) fn share(&mut self, other: &Self) {
        share(&mut self.table, &other.table);
        share(&mut self.several, &other.several);
    }

    fn holders(&self, target: &Target) -> Holders {
        let one = || self.action(target).map(Holders::one).unwrap_or_default();
        self.several.get(target).copied().unwrap_or_else(one)
    }

    /// Removes nothing that is not there: that would copy what others share.
    fn set(&mut self, target: Target, holders: Holders) {
        let action = holders.action();
        if action != self.action(&target) {
            match action {
                Some(action) => self.table.insert(target, action),
                None => self.table.remove(&target),
            };
        }
        if holders.allow + holders.proxy > 1 {
            self.several.insert(target, holders);
        } else if self.several.contains_key(&target) {
            self.several.remove(&target);
        }
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
