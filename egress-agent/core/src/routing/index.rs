//! Finds the most specific listed host for a name among many: exact, then the longest wildcard;
//! and the longest listed prefix for an address.
//!
//! A wildcard matches by text suffix, any number of labels deep, as in Istio (`pkg/config/host/name.go`):
//! `*.example.com` is `a.b.example.com` and not `example.com`; `*example.com` is both and
//! `badexample.com` too.

use super::table::canonical;
use super::{PortRoutes, TcpRoute};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// The sorted names of one port, made at the first question. A clone starts anew, so that a changed
/// copy of a port is never asked through the names of the original.
#[derive(Debug, Default)]
pub struct PortIndex {
    hosts: OnceLock<Names>,
    tls: OnceLock<Names>,
    tcp: OnceLock<(Prefixes, Prefixes)>,
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
    entries: BTreeSet<(Reverse<u8>, IpNet, u32)>,
    lengths: Vec<u8>,
}

impl Prefixes {
    fn new<'a>(routes: impl Iterator<Item = (u32, &'a Arc<TcpRoute>)>) -> Self {
        let mut new = Self::default();
        for (entry, route) in routes {
            for net in &route.nets {
                let key = (Reverse(net.prefix_len()), net.trunc(), entry);
                new.entries.insert(key);
            }
        }
        new.lengths = new.entries.iter().map(|(bits, ..)| bits.0).collect();
        new.lengths.dedup();
        new
    }

    /// What `accept` makes of the first entry that it takes, the longest prefix first.
    fn find<T>(&self, addr: IpAddr, accept: impl Fn(usize) -> Option<T>) -> Option<T> {
        let addr = canonical(addr);
        self.lengths.iter().find_map(|bits| {
            let (bits, net) = (Reverse(*bits), IpNet::new(addr, *bits).ok()?.trunc());
            let same = self.entries.range((bits, net, 0)..=(bits, net, u32::MAX));
            same.map(|(.., entry)| *entry as usize).find_map(&accept)
        })
    }
}

impl PortRoutes {
    /// What `accept` makes of a place in `hosts` for this canonical host: the most specific that it
    /// takes.
    pub(super) fn find_host<T>(
        &self,
        host: &str,
        accept: impl Fn(usize) -> Option<T>,
    ) -> Option<T> {
        let name_of = |place: Place| self.hosts[place.entry as usize].host.as_str();
        let places = || (0..self.hosts.len() as u32).map(|entry| Place { entry, name: 0 });
        self.index
            .hosts
            .get_or_init(|| Names::new(places(), name_of))
            .find(host, name_of, accept)
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

    /// What `accept` makes of a place in `tcp` for this destination: the first that it takes, of
    /// those for any bytes before the sniffed ones, so that these never take HTTP from them.
    pub(super) fn find_tcp<T>(
        &self,
        addr: IpAddr,
        accept: impl Fn(usize) -> Option<T>,
    ) -> Option<T> {
        let of = |sniffed: bool| {
            let routes = (0..).zip(&self.tcp);
            Prefixes::new(routes.filter(|(_, route)| route.sniffed == sniffed))
        };
        let (any, sniffed) = self.index.tcp.get_or_init(|| (of(false), of(true)));
        any.find(addr, &accept)
            .or_else(|| sniffed.find(addr, &accept))
    }
}
