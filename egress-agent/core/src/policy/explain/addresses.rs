//! The addresses that a client dials for a host: those of DNS answers, else those in its rule, else
//! an address that no rule names.
//!
//! It asks no name server and judges nothing.

use crate::istio::service_entry::Resolution;
use crate::policy::leases::Leases;
use crate::policy::state::PolicyState;
use crate::policy::tables::Transport;
use crate::registry::services::{Entry, Location, Service};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// Addresses of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Addresses {
    /// Addresses from the agent's own queries.
    Resolved(Vec<IpAddr>),
    /// Addresses that the agent gave it, which clients get from the agent's DNS.
    Allocated(Vec<IpAddr>),
    /// Addresses that its rule lists: one of each network of `addresses`, or the endpoints.
    Listed(Vec<IpAddr>),
    /// Unknown. An address that no rule names is judged instead.
    Unknown(IpAddr),
}

impl Addresses {
    /// The addresses of a host. `service` covers it, if any does.
    pub(super) fn of(
        host: &str,
        port: u16,
        via: Transport,
        service: Option<&Service>,
        policy: &PolicyState,
        leases: &Leases,
    ) -> Self {
        let allocated = service.map_or(&[][..], |s| &s.allocated);
        if !allocated.is_empty() {
            return Self::Allocated(allocated.iter().map(IpNet::addr).collect());
        }
        let resolved: Vec<_> = leases.leased(host).collect();
        if !resolved.is_empty() {
            return Self::Resolved(resolved);
        }
        let listed = service.map_or_else(Vec::new, |s| listed(s, port, leases));
        if listed.is_empty() {
            Self::Unknown(stranger(policy, port, via))
        } else {
            Self::Listed(listed)
        }
    }

    /// Each of them.
    pub(super) fn all(&self) -> &[IpAddr] {
        match self {
            Self::Resolved(all) | Self::Allocated(all) | Self::Listed(all) => all,
            Self::Unknown(one) => std::slice::from_ref(one),
        }
    }
}

fn listed(service: &Service, port: u16, leases: &Leases) -> Vec<IpAddr> {
    let entries = || service.entries.iter().filter(|e| e.port(port).is_some());
    let spelt: BTreeSet<_> = entries()
        .filter(|e| e.resolution != Resolution::DynamicDns)
        .flat_map(|e| &e.addresses)
        .filter_map(|net| net.hosts().next())
        .collect();
    if !spelt.is_empty() {
        return spelt.into_iter().collect();
    }
    let all: BTreeSet<_> = entries().flat_map(|e| endpoints(e, leases)).collect();
    all.into_iter().collect()
}

fn endpoints(entry: &Entry, leases: &Leases) -> Vec<IpAddr> {
    let listed = entry.endpoints.iter().flatten();
    let of = |location: &Location| match location {
        Location::Ip(ip) => vec![*ip],
        Location::Name(name) => leases.leased(name).collect(),
    };
    listed.flat_map(|e| of(&e.location)).collect()
}

/// An address that no rule names, except rules for every address: one of the documentation ranges (RFC 5737), else the
/// first of another public network.
pub(super) fn stranger(policy: &PolicyState, port: u16, via: Transport) -> IpAddr {
    let documentation = [[192, 0, 2, 1], [198, 51, 100, 1], [203, 0, 113, 1]];
    let others = (1..=223).map(|first| [first, 0, 0, 1]);
    let public = |ip: &IpAddr| crate::routing::inside::is_public(*ip);
    let mut all = documentation
        .into_iter()
        .chain(others)
        .map(|octets| IpAddr::V4(Ipv4Addr::from(octets)))
        .filter(public);
    let unnamed = |ip: &IpAddr| !policy.ledger().names(*ip, port, via);
    let first = IpAddr::V4(Ipv4Addr::from(documentation[0]));
    all.find(unnamed).unwrap_or(first)
}
