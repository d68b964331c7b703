//! Finds the most specific listed host for a name among many: exact, then the longest wildcard; and
//! the longest listed prefix for an address. Does not know what the entries mean.
//!
//! A wildcard matches by text suffix, any number of labels deep, as in Istio (`pkg/config/host/name.go`):
//! `*.example.com` is `a.b.example.com` and not `example.com`; `*example.com` is both and
//! `badexample.com` too.

use super::inside::canonical;
use crate::istio::hosts::ends;
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::OnceLock;

/// The sorted names of one port, made at the first question. A clone starts again, so that a
/// changed copy of a port is never asked through the names of the original.
#[derive(Debug, Default)]
pub struct PortIndex {
    pub(super) hosts: OnceLock<Names>,
    pub(super) tls: OnceLock<Names>,
    /// Of the routes for any bytes, and of the sniffed ones.
    pub(super) tcp: OnceLock<(Prefixes, Prefixes)>,
}

impl Clone for PortIndex {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Places in the port's lists, sorted by the name that stands there, equal names in their order.
#[derive(Debug)]
pub(super) struct Names {
    places: Vec<Place>,
    /// How many of the places are wildcards; they sort before every name.
    wildcards: usize,
}

/// Which entry, and which of its names (a virtual host has only one).
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) entry: u32,
    pub(super) name: u32,
}

impl Names {
    pub(super) fn new<'a>(
        places: impl Iterator<Item = Place>,
        name_of: impl Fn(Place) -> &'a str,
    ) -> Self {
        let mut places: Vec<Place> = places.collect();
        // The sort is stable.
        places.sort_by_key(|place| name_of(*place));
        let wildcards = places.partition_point(|place| name_of(*place).starts_with('*'));
        Self { places, wildcards }
    }

    /// What `accept` makes of the first entry that it takes, the most specific name first.
    pub(super) fn find<'a, T>(
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
            ends(host).find_map(|end| {
                wildcard.clear();
                wildcard.push('*');
                wildcard.push_str(end);
                find(wildcards, &wildcard)
            })
        };
        find(names, host).or_else(longest_wildcard)
    }
}

/// Networks of a list's entries, by length and then by bits.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    entries: BTreeSet<(Reverse<u8>, IpNet, u32)>,
    lengths: Vec<u8>,
}

impl Prefixes {
    pub(super) fn new(networks: impl Iterator<Item = (u32, IpNet)>) -> Self {
        let mut new = Self::default();
        for (entry, net) in networks {
            let key = (Reverse(net.prefix_len()), net.trunc(), entry);
            new.entries.insert(key);
        }
        new.lengths = new.entries.iter().map(|(bits, ..)| bits.0).collect();
        new.lengths.dedup();
        new
    }

    /// What `accept` makes of the first entry that it takes, the longest prefix first.
    pub(super) fn find<T>(&self, addr: IpAddr, accept: impl Fn(usize) -> Option<T>) -> Option<T> {
        let addr = canonical(addr);
        self.lengths.iter().find_map(|bits| {
            let (bits, net) = (Reverse(*bits), IpNet::new(addr, *bits).ok()?.trunc());
            let same = self.entries.range((bits, net, 0)..=(bits, net, u32::MAX));
            same.map(|(.., entry)| *entry as usize).find_map(&accept)
        })
    }
}
