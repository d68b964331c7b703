//! Finds the most specific listed host for a name among many: exact, then the longest wildcard.
//!
//! A wildcard matches by text suffix, any number of labels deep, as in Istio (`pkg/config/host/name.go`):
//! `*.example.com` is `a.b.example.com` and not `example.com`; `*example.com` is both and
//! `badexample.com` too.

use super::PortRoutes;
use std::sync::OnceLock;

/// The sorted names of one port, made at the first question. A clone starts anew, so that a changed
/// copy of a port is never asked through the names of the original.
#[derive(Debug, Default)]
pub struct PortIndex {
    hosts: OnceLock<Names>,
    tls: OnceLock<Names>,
}

impl Clone for PortIndex {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// Places in the port's lists, sorted by the name that stands there, each name once.
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
        // The sort is stable: of one name listed twice, the first stays.
        places.sort_by_key(|place| name_of(*place));
        places.dedup_by_key(|place| name_of(*place));
        let wildcards = places.partition_point(|place| name_of(*place).starts_with('*'));
        Self { places, wildcards }
    }

    fn find<'a>(&self, host: &str, name_of: impl Fn(Place) -> &'a str) -> Option<usize> {
        let find = |places: &[Place], wanted: &str| {
            let at = places
                .binary_search_by(|place| name_of(*place).cmp(wanted))
                .ok()?;
            Some(places[at].entry as usize)
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

impl PortRoutes {
    /// The place in `hosts` of the virtual host for this canonical host.
    pub(super) fn find_host(&self, host: &str) -> Option<usize> {
        let name_of = |place: Place| self.hosts[place.entry as usize].host.as_str();
        let places = || (0..self.hosts.len() as u32).map(|entry| Place { entry, name: 0 });
        self.index
            .hosts
            .get_or_init(|| Names::new(places(), name_of))
            .find(host, name_of)
    }

    /// The place in `tls` of the route for this canonical server name.
    pub(super) fn find_tls(&self, name: &str) -> Option<usize> {
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
            .find(name, name_of)
    }
}
