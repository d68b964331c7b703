//! The addresses at which the ports of a service are dialled: endpoints, listed networks, clusters of the proxy.
//!
//! Does not know the kernel's tables: see `claims`.

use super::leases::{Among, Leases};
use crate::istio::hosts;
use crate::istio::service_entry::Resolution;
use crate::registry::plan::{Subset, To};
use crate::registry::services::{Class, Endpoint, Entry, Location, Port, Service};
use crate::routing::Cluster;
use crate::traffic::{Balance, ClusterPolicy, UpstreamProtocol};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Which endpoints to return.
#[derive(Clone, Copy)]
pub(super) enum Pick<'a> {
    /// Those at addresses that clients may still dial.
    Leased(Among<'a>),
    /// Those that the proxy dials, with these labels.
    Newest(Option<&'a BTreeMap<String, String>>),
}

/// Address, port and weight of each endpoint.
pub(super) fn endpoints(
    host: &str,
    entry: &Entry,
    port: &Port,
    leases: &Leases,
    pick: Pick<'_>,
) -> Vec<(IpAddr, u16, u32)> {
    let of_name = |name: &str| match pick {
        Pick::Leased(among) => leases.leased_among(name, among),
        Pick::Newest(_) => leases.newest(name).to_vec(),
    };
    let (labels, among) = match pick {
        Pick::Leased(among) => (None, among),
        Pick::Newest(labels) => (labels, Among::All),
    };
    let fallback = port.target.unwrap_or(port.number);
    let Some(listed) = &entry.endpoints else {
        // The host itself is an endpoint without labels.
        let labelled = labels.is_some_and(|l| !l.is_empty());
        let resolved = matches!(
            entry.resolution,
            Resolution::Dns | Resolution::DnsRoundRobin
        );
        let none = hosts::is_wildcard(host) || !resolved || labelled;
        let own = if none { Vec::new() } else { of_name(host) };
        return own.into_iter().map(|ip| (ip, fallback, 1)).collect();
    };
    let chosen = |e: &&Endpoint| {
        let has = |(k, v)| e.labels.get(k) == Some(v);
        labels.is_none_or(|l| l.iter().all(has))
    };
    let mut found = Vec::new();
    for endpoint in listed.iter().filter(chosen) {
        let number = endpoint.ports.get(&port.name).copied().unwrap_or(fallback);
        match &endpoint.location {
            Location::Ip(ip) if among.has(*ip) => found.push((*ip, number, endpoint.weight)),
            Location::Ip(_) => {}
            Location::Name(name) => {
                let all = of_name(name).into_iter();
                found.extend(all.map(|ip| (ip, number, endpoint.weight)));
            }
        }
    }
    found
}

/// The version of HTTP that the endpoints of a port get: what rules ask for, else what the port is listed for.
pub fn upstream_protocol(service: &Service, port: u16, policy: &ClusterPolicy) -> UpstreamProtocol {
    let asked = policy.pool.protocol;
    asked.unwrap_or_else(|| service.upstream_protocol(port))
}

/// The present addresses of a destination, for the proxy to dial. `service` is the destination's service, if it is
/// registered.
pub fn cluster(service: Option<&Service>, to: &To, leases: &Leases) -> Cluster {
    let of_rules = || Cluster {
        id: to.id.clone(),
        policy: Arc::clone(&to.policy),
        ..Cluster::default()
    };
    if to.policy.denied.is_some() {
        return of_rules();
    }
    let missing = || Cluster {
        missing: true,
        ..of_rules()
    };
    let port = to.id.port;
    let found = service.filter(|s| s.class(port).is_some_and(|c| c != Class::Udp));
    let labels = match &to.subset {
        Subset::All => None,
        Subset::Labels(labels) => Some(labels.as_ref()),
        Subset::Undefined => return missing(),
    };
    let Some(service) = found else {
        return missing();
    };
    let resolution = service.resolution();
    let with_port = || with_port(service, port);
    let pick = Pick::Newest(labels);
    let mut found: Vec<(SocketAddr, u32)> = with_port()
        .flat_map(|(e, port)| endpoints(&service.host, e, port, leases, pick))
        .map(|(ip, port, weight)| (SocketAddr::new(ip, port), weight))
        .collect();
    // One logical host: the first address of the latest answer, and the others if it does not connect.
    let further = match resolution {
        Resolution::DnsRoundRobin if !found.is_empty() => found.split_off(1),
        _ => Vec::new(),
    };
    found.sort_unstable();
    found.dedup_by_key(|(address, _)| *address);
    let (endpoints, mut weights): (Vec<_>, Vec<_>) = found.into_iter().unzip();
    if weights.windows(2).all(|pair| pair[0] == pair[1]) {
        weights = Vec::new();
    }
    let balance = to.policy.balance.as_ref();
    let balanced = match balance {
        None => resolution == Resolution::Static || !weights.is_empty(),
        Some(balance) => *balance != Balance::Passthrough,
    };
    let target = || {
        with_port()
            .find_map(|(_, port)| port.target)
            .unwrap_or(port)
    };
    let as_dialled = resolution == Resolution::None;
    Cluster {
        endpoints,
        protocol: upstream_protocol(service, port, &to.policy),
        original_dst: as_dialled.then(target),
        dynamic: (resolution == Resolution::DynamicDns).then(target),
        nets: if as_dialled {
            own_networks(service, port)
        } else {
            Vec::new()
        },
        balanced,
        weights,
        named: matches!(
            resolution,
            Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns
        ),
        further: further.into_iter().map(|(address, _)| address).collect(),
        ..of_rules()
    }
}

fn with_port(service: &Service, number: u16) -> impl Iterator<Item = (&Entry, &Port)> {
    let entries = service.entries.iter();
    entries.filter_map(move |e| e.port(number).map(|port| (e.as_ref(), port)))
}

/// `addresses` of the entries that list a port, and allocated ones. With resolution NONE, an entry without `addresses` also
/// covers every other address.
pub fn listed_networks(service: &Service, number: u16) -> Vec<IpNet> {
    let with_port = with_port(service, number);
    let nets = |(entry, _)| networks_of(service, entry);
    with_port.flat_map(nets).copied().collect()
}

/// `addresses` of an entry, and those that the agent allocated to its host.
pub fn networks_of<'a>(service: &'a Service, entry: &'a Entry) -> impl Iterator<Item = &'a IpNet> {
    entry.addresses.iter().chain(&service.allocated)
}

/// `addresses` of a port with resolution NONE; empty if it is open to any address.
pub fn own_networks(service: &Service, number: u16) -> Vec<IpNet> {
    let any = with_port(service, number).any(|(e, _)| e.addresses.is_empty());
    let all = with_port(service, number).flat_map(|(e, _)| &e.addresses);
    if any {
        Vec::new()
    } else {
        all.copied().collect()
    }
}

/// Destinations by which a port of a service is known, for bytes without a name.
#[derive(Debug, Default)]
pub struct Doors {
    /// Endpoints on the port that was dialled.
    pub endpoints: Vec<IpNet>,
    /// Addresses that lead to the service: `addresses`, and endpoints with another port.
    pub others: Vec<IpNet>,
}

/// See [`Doors`].
pub fn doors(service: &Service, number: u16, leases: &Leases) -> Doors {
    let mut doors = Doors::default();
    for (entry, port) in with_port(service, number) {
        match entry.resolution {
            Resolution::None if entry.addresses.is_empty() => doors.others.extend(everywhere()),
            Resolution::None => doors.others.extend(&entry.addresses),
            Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => {
                doors.others.extend(networks_of(service, entry));
                let all = Pick::Leased(Among::All);
                for (ip, to, _) in endpoints(&service.host, entry, port, leases, all) {
                    let side = if to == number {
                        &mut doors.endpoints
                    } else {
                        &mut doors.others
                    };
                    side.push(ip.into());
                }
            }
            Resolution::DynamicDns => {}
        }
    }
    for side in [&mut doors.endpoints, &mut doors.others] {
        side.sort_unstable();
        side.dedup();
    }
    doors
}

/// Every address of both families.
pub fn everywhere() -> [IpNet; 2] {
    let v4 = ipnet::Ipv4Net::default();
    let v6 = ipnet::Ipv6Net::default();
    [v4.into(), v6.into()]
}
