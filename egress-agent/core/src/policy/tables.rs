//! The content of a kernel table: its targets, and what happens to a flow that a target covers.
//!
//! Owns the form and the order of entries. `claims` decides what a service claims, `ledger` unites the claims of a
//! policy, and `diff` decides the order of the writes.

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
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::IpAddr;
use std::ops::Deref;

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

/// A table's content. Equal content is one table in the kernel. A copy shares what does not change after it.
///
/// Counts and sums up its entries, so that tables are compared and counted without a walk through them.
#[derive(Clone, Debug, Default)]
pub struct Table {
    entries: OrdMap<Target, Action>,
    networks: usize,
    /// Sum of the hashes of its entries: equal for equal contents, and hardly ever for others.
    sum: u64,
}

impl Table {
    /// Without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry or changes its action.
    pub fn insert(&mut self, target: Target, action: Action) {
        let old = self.entries.insert(target, action);
        self.count_out(&target, old);
        self.networks += usize::from(!target.is_exact());
        self.sum = self.sum.wrapping_add(hash(&target, action));
    }

    /// Removes an entry.
    pub fn remove(&mut self, target: &Target) {
        let old = self.entries.remove(target);
        self.count_out(target, old);
    }

    fn count_out(&mut self, target: &Target, old: Option<Action>) {
        if let Some(action) = old {
            self.networks -= usize::from(!target.is_exact());
            self.sum = self.sum.wrapping_sub(hash(target, action));
        }
    }

    /// Applies changes.
    pub fn apply(&mut self, delta: &Delta) {
        for (target, action) in delta {
            match action {
                Some(action) => self.insert(*target, *action),
                None => self.remove(target),
            }
        }
    }

    /// The number of its single addresses and of its networks.
    pub fn count(&self) -> [usize; 2] {
        [self.entries.len() - self.networks, self.networks]
    }

    /// The sum of its entries.
    pub(super) const fn sum(&self) -> u64 {
        self.sum
    }

    /// Shares the parts that are equal in another table.
    pub(super) fn share(&mut self, other: &Self) {
        share(&mut self.entries, &other.entries);
    }
}

impl Deref for Table {
    type Target = OrdMap<Target, Action>;

    fn deref(&self) -> &Self::Target {
        &self.entries
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        let known = |table: &Self| (table.sum, table.count());
        known(self) == known(other) && self.entries == other.entries
    }
}

impl Eq for Table {}

impl FromIterator<(Target, Action)> for Table {
    fn from_iter<I: IntoIterator<Item = (Target, Action)>>(entries: I) -> Self {
        let mut table = Self::new();
        for (target, action) in entries {
            table.insert(target, action);
        }
        table
    }
}

fn hash(target: &Target, action: Action) -> u64 {
    let mut hasher = DefaultHasher::new();
    (target, action).hash(&mut hasher);
    hasher.finish()
}

/// The changes of a table: for each target the new action, or `None` if it is removed.
pub type Delta = BTreeMap<Target, Option<Action>>;

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
