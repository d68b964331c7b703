//! The hosts whose rules name an address: as a VIP or network in `addresses`, or as an endpoint.

use super::pairs::Pairs;
use crate::istio::service_entry::Resolution;
use crate::policy::endpoints::networks_of;
use crate::policy::numbers;
use crate::registry::services::{Location, Service};
use egress_ebpf::addr::Addr;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Length of the network, of 128 bits, and its address; IPv4 in mapped form.
type Network = (u8, u128);

/// Bits that the mapped form puts before an IPv4 address.
const MAPPED_BITS: u8 = 96;

/// See the module. A host that lists a network in several versions counts once in each.
#[derive(Clone, Debug, Default)]
pub(super) struct Listed {
    networks: Pairs<Network>,
    /// How many pairs there are of each length.
    lengths: BTreeMap<u8, u32>,
}

impl Listed {
    /// Adds the networks that a service lists.
    pub(super) fn add(&mut self, service: &Service) {
        for network in networks(service) {
            if self.networks.add(&network, &service.host) {
                *self.lengths.entry(network.0).or_default() += 1;
            }
        }
    }

    /// Removes the networks that a service lists.
    pub(super) fn remove(&mut self, service: &Service) {
        for network in networks(service) {
            if self.networks.remove(&network, &service.host)
                && let Some(count) = self.lengths.get_mut(&network.0)
            {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&network.0);
                }
            }
        }
    }

    /// The hosts that list a network with this address, the narrowest network first.
    pub(super) fn of(&self, addr: Addr) -> impl Iterator<Item = &Arc<str>> {
        let addr = addr.canonical();
        let shortest = if addr.is_v4() { MAPPED_BITS } else { 0 };
        let lengths = self.lengths.range(shortest..).rev();
        lengths.flat_map(move |(bits, _)| self.networks.of(&network(*bits, addr)))
    }
}

fn network(bits: u8, addr: Addr) -> Network {
    let mask = u128::MAX
        .checked_shl(128 - u32::from(bits))
        .unwrap_or_default();
    (bits, numbers::number(addr) & mask)
}

/// Each network that a service lists, once.
fn networks(service: &Service) -> impl Iterator<Item = Network> {
    let used = |resolution| resolution != Resolution::DynamicDns;
    let entries = service.entries.iter().filter(|e| used(e.resolution));
    let all: BTreeSet<Network> = entries
        .flat_map(|entry| {
            let endpoints = entry.endpoints.iter().flatten();
            let endpoints = endpoints.filter_map(|e| match &e.location {
                Location::Ip(ip) => Some(network(128, Addr::from(*ip).canonical())),
                Location::Name(_) => None,
            });
            let addresses = networks_of(service, entry).map(|net| match net {
                _ if net.prefix_len() == net.max_prefix_len() => {
                    network(128, Addr::from(net.addr()).canonical())
                }
                IpNet::V4(v4) => network(MAPPED_BITS + v4.prefix_len(), net.addr().into()),
                IpNet::V6(v6) => network(v6.prefix_len(), net.addr().into()),
            });
            endpoints.chain(addresses)
        })
        .collect();
    all.into_iter()
}
