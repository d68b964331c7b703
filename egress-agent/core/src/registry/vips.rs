//! Addresses that the agent gives to hosts whose rules have none, so that clients dial each host at an address of its
//! own (`dns.intercept: auto`).
//!
//! Owns which address a host has. The networks and the hosts that may have one are Istio's (istio
//! `pilot/pkg/controllers/ipallocate`, `pilot/pkg/networking/serviceentry/ip_autoallocation.go`). `view` decides which
//! workloads dial them.

use imbl::{OrdMap, Vector};
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// First two bytes of 240.240.0.0/16.
const V4: [u8; 2] = [240, 240];
/// First three groups of 2001:2::/48.
const V6: [u16; 3] = [0x2001, 2, 0];
/// Numbers of hosts: the last two bytes of both addresses, without those that a network and its broadcast address have.
const NUMBERS: std::ops::RangeInclusive<u16> = 1..=u16::MAX - 1;
/// How many numbers are tried before the next free one is taken.
const TRIES: u64 = 64;
/// How many former hosts keep their number, so that a client that still has an address of one does not reach another
/// host, and a host that comes back has its former address.
const FORMER: usize = 1024;

/// See the module. Two hosts never have the same number. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Vips {
    numbers: OrdMap<Arc<str>, u16>,
    hosts: OrdMap<u16, Arc<str>>,
    /// Hosts that rules no longer list, with their number. The first one is the next to lose it.
    former: Vector<Arc<str>>,
    /// Numbers of the addresses in these networks that rules write down, and in how many places.
    written: OrdMap<u16, u32>,
}

impl Vips {
    /// The addresses of a host, IPv4 and IPv6; none if it has none.
    pub(super) fn of(&self, host: &str) -> Vec<IpNet> {
        let number = self.numbers.get(host);
        let both = number.map(|number| [v4(*number), v6(host, *number)]);
        both.into_iter().flatten().map(IpNet::from).collect()
    }

    /// A host gets addresses, if any are left. It keeps those that it has.
    pub(super) fn give(&mut self, host: &Arc<str>) {
        if self.numbers.contains_key(host) {
            self.former.retain(|former| former != host);
            return;
        }
        let number = self.free(host).or_else(|| {
            self.forget_first();
            self.free(host)
        });
        if let Some(number) = number {
            self.numbers.insert(Arc::clone(host), number);
            self.hosts.insert(number, Arc::clone(host));
        }
    }

    /// A host needs no addresses any more.
    pub(super) fn release(&mut self, host: &Arc<str>) {
        if !self.numbers.contains_key(host) || self.former.contains(host) {
            return;
        }
        self.former.push_back(Arc::clone(host));
        if self.former.len() > FORMER {
            self.forget_first();
        }
    }

    /// A rule writes down an address. Returns the host that must have another one now.
    pub(super) fn write(&mut self, net: &IpNet) -> Option<Arc<str>> {
        let number = number_of(net)?;
        *self.written.entry(number).or_default() += 1;
        let host = self.hosts.remove(&number)?;
        self.numbers.remove(&host);
        self.former.retain(|former| *former != host);
        Some(host)
    }

    /// A rule no longer writes down an address.
    pub(super) fn erase(&mut self, net: &IpNet) {
        let Some(number) = number_of(net) else {
            return;
        };
        match self.written.get_mut(&number) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.written.remove(&number)),
        }
    }

    /// Rules write down no address.
    pub(super) fn erase_all(&mut self) {
        self.written = OrdMap::new();
    }

    /// How many hosts have addresses, former ones too, and the most that can have some.
    pub(super) fn in_use(&self) -> (usize, usize) {
        (self.numbers.len(), NUMBERS.len())
    }

    /// Every host with a number, former ones too.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &Arc<str>> {
        self.numbers.keys()
    }

    fn forget_first(&mut self) {
        let number = self
            .former
            .pop_front()
            .and_then(|host| self.numbers.remove(&host));
        if let Some(number) = number {
            self.hosts.remove(&number);
        }
    }

    /// A free number for a host: one of those that its name gives, so that it is the same on each node and after a
    /// restart unless several names give it.
    fn free(&self, host: &str) -> Option<u16> {
        let is_free =
            |number: &u16| !self.hosts.contains_key(number) && !self.written.contains_key(number);
        let hash = hash(host);
        let tried = (0..TRIES).map(|n| number(hash.wrapping_add(n)));
        let mut tried = tried.filter(|number| NUMBERS.contains(number));
        let first = number(hash);
        tried
            .find(is_free)
            .or_else(|| (first..=*NUMBERS.end()).find(is_free))
            .or_else(|| (*NUMBERS.start()..first).find(is_free))
    }
}

/// The number of a single address in one of the networks.
fn number_of(net: &IpNet) -> Option<u16> {
    if net.prefix_len() != net.max_prefix_len() {
        return None;
    }
    match net.addr() {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            ([a, b] == V4).then(|| u16::from_be_bytes([c, d]))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, .., number] = v6.segments();
            ([a, b, c] == V6).then_some(number)
        }
    }
}

fn v4(number: u16) -> IpAddr {
    let [c, d] = number.to_be_bytes();
    Ipv4Addr::new(V4[0], V4[1], c, d).into()
}

/// The hash of the host makes it certain that no other host gets this address later.
fn v6(host: &str, number: u16) -> IpAddr {
    let hash = mixed(hash(host));
    let group = |n: u32| u16::try_from(hash >> (16 * n) & 0xffff).unwrap_or_default();
    let [a, b, c] = V6;
    Ipv6Addr::new(a, b, c, group(3), group(2), group(1), group(0), number).into()
}

fn number(hash: u64) -> u16 {
    u16::try_from(mixed(hash) >> 48).unwrap_or_default()
}

/// FNV-1a (http://www.isthe.com/chongo/tech/comp/fnv). It must not change: addresses would change with it.
fn hash(host: &str) -> u64 {
    host.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Spreads a hash over all bits (the end of `splitmix64`).
const fn mixed(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn host(n: u32) -> Arc<str> {
        format!("db{n}.example").into()
    }

    #[test]
    fn fifty_thousand_hosts_have_addresses_of_their_own_and_keep_them() {
        let mut vips = Vips::default();
        (0..50_000).for_each(|n| vips.give(&host(n)));
        let before: Vec<_> = (0..50_000).map(|n| vips.of(&host(n))).collect();
        let all: BTreeSet<_> = before.iter().flatten().copied().collect();
        assert_eq!(all.len(), 100_000);
        let v4: IpNet = "240.240.0.0/16".parse().unwrap();
        let v6: IpNet = "2001:2::/48".parse().unwrap();
        for both in &before {
            assert!(v4.contains(&both[0]) && v6.contains(&both[1]), "{both:?}");
        }
        // Others come and go.
        (50_000..60_000).for_each(|n| vips.give(&host(n)));
        (50_000..60_000).for_each(|n| vips.release(&host(n)));
        (60_000..65_000).for_each(|n| vips.give(&host(n)));
        let after: Vec<_> = (0..50_000).map(|n| vips.of(&host(n))).collect();
        assert_eq!(before, after);
        // In the same order they are the same in another process.
        let mut other = Vips::default();
        (0..50_000).for_each(|n| other.give(&host(n)));
        assert_eq!(other.of(&host(49_999)), before[49_999]);
    }

    #[test]
    fn an_address_does_not_depend_on_other_hosts_unless_both_names_give_it() {
        let mut vips = Vips::default();
        vips.give(&"db1.example".into());
        let alone = vips.of("db1.example");
        assert_eq!(
            alone,
            [
                "240.240.231.238/32".parse::<IpNet>().unwrap(),
                "2001:2:0:e7ee:4363:ce62:5d8d:e7ee/128".parse().unwrap()
            ]
        );
        let mut many = Vips::default();
        (2..100).for_each(|n| many.give(&host(n)));
        many.give(&"db1.example".into());
        assert_eq!(many.of("db1.example"), alone);
    }

    #[test]
    fn a_host_without_room_has_none_and_former_hosts_give_way() {
        let mut vips = Vips::default();
        let size = u32::from(u16::MAX) - 1;
        (0..size).for_each(|n| vips.give(&host(n)));
        vips.give(&host(size));
        assert_eq!(vips.of(&host(size)), []);
        let of_first = vips.of(&host(0));
        vips.release(&host(0));
        assert_eq!(vips.of(&host(0)), of_first);
        vips.give(&host(size));
        assert_eq!(vips.of(&host(size))[0], of_first[0]);
        assert_ne!(vips.of(&host(size))[1], of_first[1]);
        assert_eq!(vips.of(&host(0)), []);
    }

    #[test]
    fn a_former_host_that_comes_back_has_its_former_addresses() {
        let mut vips = Vips::default();
        vips.give(&host(1));
        let before = vips.of(&host(1));
        vips.release(&host(1));
        vips.release(&host(1));
        // A host whose first number is the same does not get it.
        let same = (2..1_000_000)
            .map(host)
            .find(|other| number(hash(other)) == number(hash(&host(1))));
        let same = same.unwrap();
        vips.give(&same);
        assert_ne!(vips.of(&same)[0], before[0]);
        vips.give(&host(1));
        assert_eq!(vips.of(&host(1)), before);
        assert_eq!(vips.former.len(), 0);
    }

    #[test]
    fn an_address_that_a_rule_writes_down_is_given_to_no_host() {
        let mut vips = Vips::default();
        vips.give(&host(1));
        let before = vips.of(&host(1));
        for net in &before {
            let mut vips = vips.clone();
            assert_eq!(vips.write(net), Some(host(1)));
            assert_eq!(vips.of(&host(1)), []);
            vips.give(&host(1));
            assert_ne!(vips.of(&host(1))[0], before[0]);
            vips.release(&host(1));
            vips.erase(net);
        }
        assert_eq!(vips.write(&"240.240.0.0/16".parse().unwrap()), None);
        assert_eq!(vips.write(&"198.51.100.1/32".parse().unwrap()), None);
        assert_eq!(vips.of(&host(1)), before);
    }
}
