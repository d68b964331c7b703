//! The addresses of names among a few. What is computed for a few does not cost more when there are many others.

use super::Leases;
use crate::istio::hosts;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Which addresses are of interest.
#[derive(Clone, Copy, Debug)]
pub enum Among<'a> {
    /// Every address.
    All,
    /// Only these.
    These(&'a BTreeSet<IpAddr>),
}

impl Among<'_> {
    /// Whether an address is of interest.
    pub fn has(self, address: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::These(these) => these.contains(&address),
        }
    }
}

impl Leases {
    /// The addresses of a name that hold a lease, sorted.
    pub fn leased_among(&self, name: &str, among: Among<'_>) -> Vec<IpAddr> {
        match among {
            Among::All => self.leased(name).collect(),
            Among::These(these) => {
                let lives = self.names.get(name).map(|state| &state.lives);
                let leased = |ip: &&IpAddr| lives.is_some_and(|lives| lives.contains_key(*ip));
                these.iter().filter(leased).copied().collect()
            }
        }
    }

    /// The addresses of learned names that this host, which may be a wildcard, lists. An address of two names may be
    /// there twice.
    pub fn learned_below(&self, host: &str, among: Among<'_>) -> Vec<IpAddr> {
        match among {
            Among::All => {
                let names = self.learned.names();
                let names = names.filter(|name| hosts::covers(host, name));
                names.flat_map(|name| self.leased(name)).collect()
            }
            Among::These(these) => {
                let lists = |name: &str| self.learned.has(name) && hosts::covers(host, name);
                let listed = |ip: &&IpAddr| {
                    let mut names = self.addresses.names_of((**ip).into());
                    names.any(|name| lists(name) && self.has(name, **ip))
                };
                these.iter().filter(listed).copied().collect()
            }
        }
    }
}
