//! Finds the most specific listed host for a name among many: exact, then the longest wildcard;
//! and the longest listed prefix for an address.
//!
//! A wildcard matches by text suffix, any number of labels deep, as in Istio (`pkg/config/host/name.go`):
//! `*.example.com` is `a.b.example.com` and not `example.com`; `*example.com` is both and
//! `badexample.com` too.

use super::PortRoutes;
use super::table::canonical;
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::OnceLock;

/// The sorted names of one port, made at the first question. A clone starts anew, so that a changed
/// copy of a port is never asked through the names of the original.
#[derive(Debug, Default)]
pub struct PortIndex {
    hosts: OnceLock<Names>,
    tls: OnceLock<Names>,
    tcp: OnceLock<Prefixes>,
}

impl Clone for PortIndex {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Places in the port's lists, sorted by the name that stands there, equal names in their order.
#[derive(Debug)]
struct Names {
    places: Vec<Place>,
    /// How many of the places are wildcards; they sort before every name.
    wildcards: usize,
}

/// Which entry, and which of its names (a virtual host has only one).
#[derive(Clone, Copy, Debug)]
struct Place {
    entry: u32,
    name: u32,
}

impl Names {
    fn new<'a>(places: impl Iterator<Item = Place>, name_of: impl Fn(Place) -> &'a str) -> Self {
        let mut places: Vec<Place> = places.collect();
        // The sort is stable.
        places.sort_by_key(|place| name_of(*place));
        let wildcards = places.partition_point(|place| name_of(*place).starts_with('*'));
        Self { places, wildcards }
    }

    /// What `accept` makes of the first entry that it takes, the most specific name first.
    fn find<'a, T>(
        &self,
        host: &str,
        name_of: impl Fn(Place) -> &'a str,
        accept: impl Fn(usize) -> Option<T>,
    ) -> Option<T> {
        let find = |places: &[Place], wanted: &str| {
            let from = places.partition_point(|place| name_of(*place) < wanted);
            let same = places[from..]
                .iter()
                .take_while(|place| name_of(**place) == wanted);
            same.map(|place| place.entry as usize).find_map(&accept)
        };
        let (wildcards, names) = self.places.split_at(self.wildcards);
        let longest_wildcard = || {
            if wildcards.is_empty() {
                return None;
            }
            let mut wildcard = String::with_capacity(host.len() + 1);
            (0..=host.len())
                .filter(|start| host.is_char_boundary(*start))
                .find_map(|start| {
                    wildcard.clear();
                    wildcard.push('*');
                    wildcard.push_str(&host[start..]);
                    find(wildcards, &wildcard)
                })
        };
        find(names, host).or_else(longest_wildcard)
    }
}

/// Networks of the tcp routes, by length and then by bits.
#[derive(Debug, Default)]
struct Prefixes {
    entries: BTreeMap<(Reverse<u8>, IpNet), u32>,
    lengths: Vec<u8>,
}

impl Prefixes {
    fn add(&mut self, net: IpNet, entry: u32) {
        let key = (Reverse(net.prefix_len()), net.trunc());
        self.entries.entry(key).or_insert(entry);
    }

    fn find(&self, addr: IpAddr) -> Option<usize> {
        let addr = canonical(addr);
        let listed = self.lengths.iter().find_map(|bits| {
            let net = IpNet::new(addr, *bits).ok()?.trunc();
            self.entries.get(&(Reverse(*bits), net)).copied()
        });
        listed.map(|entry| entry as usize)
    }
}

impl PortRoutes {
    /// The place in `hosts` of the virtual host for this canonical host.
    pub(super) fn find_host(&self, host: &str) -> Option<usize> {
        let name_of = |place: Place| self.hosts[place.entry as usize].host.as_str();
        let places = || (0..self.hosts.len() as u32).map(|entry| Place { entry, name: 0 });
        self.index
            .hosts
            .get_or_init(|| Names::new(places(), name_of))
            .find(host, name_of, Some)
    }

    /// What `accept` makes of a place in `tls` for this canonical server name: the first that it
    /// takes.
    pub(super) fn find_tls<T>(&self, name: &str, accept: impl Fn(usize) -> Option<T>) -> Option<T> {
        let name_of =
            |place: Place| self.tls[place.entry as usize].sni_hosts[place.name as usize].as_str();
        let places = || {
            (0..).zip(&self.tls).flat_map(|(entry, route)| {
                (0..route.sni_hosts.len() as u32).map(move |name| Place { entry, name })
            })
        };
        self.index
            .tls
            .get_or_init(|| Names::new(places(), name_of))
            .find(name, name_of, accept)
    }

    /// The place in `tcp` of the route for this destination.
    pub(super) fn find_tcp(&self, addr: IpAddr) -> Option<usize> {
        let make = || {
            let mut prefixes = Prefixes::default();
            for (entry, route) in (0..).zip(&self.tcp) {
                for net in &route.nets {
                    prefixes.add(*net, entry);
                }
            }
            prefixes.lengths = prefixes.entries.keys().map(|(bits, _)| bits.0).collect();
            prefixes.lengths.dedup();
            prefixes
        };
        self.index.tcp.get_or_init(make).find(addr)
    }
}
