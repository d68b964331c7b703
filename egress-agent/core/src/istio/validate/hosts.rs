//! Which hosts cover which: the order of names and wildcards (istio `pkg/config/host/name.go`).

use crate::istio::hosts::ends;
use std::collections::HashMap;

/// Hosts of an object, to look up in time that does not grow with their number.
pub struct HostSet<'h> {
    exact: HashMap<&'h str, Vec<usize>>,
    /// By what follows the `*`.
    wildcards: HashMap<&'h str, Vec<usize>>,
    hosts: &'h [String],
}

impl<'h> HostSet<'h> {
    /// Indexes hosts.
    pub fn new(hosts: &'h [String]) -> Self {
        let mut set = Self {
            exact: HashMap::new(),
            wildcards: HashMap::new(),
            hosts,
        };
        for (index, host) in hosts.iter().enumerate() {
            match host.strip_prefix('*') {
                Some(suffix) => set.wildcards.entry(suffix).or_default().push(index),
                None => set.exact.entry(host).or_default().push(index),
            }
        }
        set
    }

    /// Whether every name that `host` stands for is one that the set stands for.
    pub fn covers(&self, host: &str) -> bool {
        let tail = match host.strip_prefix('*') {
            Some(suffix) => suffix,
            None if self.exact.contains_key(host) => return true,
            None => host,
        };
        ends(tail).any(|suffix| self.wildcards.contains_key(suffix))
    }

    /// Pairs of hosts that share a name, lower index first, each pair once. Stops where the list
    /// would be too long to read.
    pub fn overlaps(&self) -> Vec<(usize, usize)> {
        const ENOUGH: usize = 10_000;
        let mut pairs = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let tail = host.strip_prefix('*');
            if pairs.len() > ENOUGH {
                break;
            }
            let equal = if tail.is_some() {
                None
            } else {
                self.exact.get(host.as_str())
            };
            let wider = ends(tail.unwrap_or(host)).filter_map(|suffix| self.wildcards.get(suffix));
            for other in equal
                .into_iter()
                .chain(wider)
                .flatten()
                .copied()
                .filter(|other| *other != index)
            {
                pairs.push((index.min(other), index.max(other)));
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_what_ends_as_it_does() {
        let hosts = ["*.foo.com".to_owned(), "bar.com".to_owned()];
        let set = HostSet::new(&hosts);
        for (host, covered) in [
            ("a.foo.com", true),
            ("a.b.foo.com", true),
            ("*.foo.com", true),
            ("*.b.foo.com", true),
            ("foo.com", false),
            ("*.com", false),
            ("bar.com", true),
            ("BAR.com", false),
            ("*bar.com", false),
        ] {
            assert_eq!(set.covers(host), covered, "{host}");
        }
    }

    #[test]
    fn overlaps_are_found_once_whichever_is_wider() {
        for (hosts, pairs) in [
            (vec!["a.com", "b.com"], vec![]),
            (vec!["a.com", "a.com"], vec![(0, 1)]),
            (vec!["*.foo.bar", "*.bar"], vec![(0, 1)]),
            (vec!["*.bar", "x.bar", "y.baz"], vec![(0, 1)]),
            (vec!["x.bar", "*.bar", "*"], vec![(0, 1), (0, 2), (1, 2)]),
        ] {
            let hosts: Vec<String> = hosts.into_iter().map(str::to_owned).collect();
            assert_eq!(HostSet::new(&hosts).overlaps(), pairs, "{hosts:?}");
        }
    }
}
