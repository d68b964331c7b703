//! What one service claims in the kernel's tables, and where its ports are dialled.
//!
//! Owns the table "what goes where" of a service's ports by protocol class and resolution. Does
//! not know other services: the union is `tables`'.

use super::leases::Leases;
use super::tables::{Action, Claims, Target, Transport, claim};
use crate::istio::service_entry::Resolution;
use crate::registry::hosts;
use crate::registry::services::{Class, Entry, Location, Port, Service};
use crate::routing::Cluster;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

/// What happens to an address that is none of the host's, on a port whose name is checked anyway.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnlistedAddress {
    /// Refused in the kernel.
    #[default]
    Refuse,
    /// To the proxy: Host or SNI decides, and the proxy dials its own resolution, as in Istio.
    ByName,
}

/// What a service claims with the addresses that its names have at the moment.
pub fn claims(service: &Service, leases: &Leases, unlisted: UnlistedAddress) -> Claims {
    let mut claims = Claims::new();
    let ports = service.ports();
    for entry in &service.entries {
        for port in &entry.ports {
            // Of two entries' ports with one number the older one's protocol holds.
            let Some(class) = ports.get(&port.number).map(|p| p.class) else {
                continue;
            };
            let own = OfPort {
                host: &service.host,
                entry,
                port,
                class,
            };
            match entry.resolution {
                Resolution::None => own.as_dialled(&mut claims),
                Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => {
                    own.resolved(&mut claims, leases, unlisted);
                }
                // Nothing yet: denied.
                Resolution::DynamicDns => {}
            }
        }
    }
    claims
}

struct OfPort<'a> {
    host: &'a str,
    entry: &'a Entry,
    port: &'a Port,
    class: Class,
}

impl OfPort<'_> {
    const fn transport(&self) -> Transport {
        match self.class {
            Class::Udp => Transport::Udp,
            Class::Http | Class::Tls | Class::Tcp | Class::Sniffed => Transport::Tcp,
        }
    }

    const fn action(&self) -> Action {
        if self.class.needs_name() {
            Action::Proxy
        } else {
            Action::Allow
        }
    }

    fn networks(&self, claims: &mut Claims, nets: &[IpNet]) {
        for net in nets {
            for target in Target::network(*net, self.port.number, self.transport()) {
                claim(claims, target, self.action());
            }
        }
    }

    /// Resolution NONE: the client's address is the destination, so without `addresses` it is any
    /// address; on a port with names the proxy still checks the name.
    fn as_dialled(&self, claims: &mut Claims) {
        let moved = self.port.target.is_some_and(|t| t != self.port.number);
        if moved && !self.class.needs_name() {
            return; // Another port than the dialled one: not without the proxy.
        }
        if self.entry.addresses.is_empty() {
            claim(
                claims,
                Target::any(self.port.number, self.transport()),
                self.action(),
            );
        } else {
            self.networks(claims, &self.entry.addresses);
        }
    }

    /// The client must dial an address of the host.
    fn resolved(&self, claims: &mut Claims, leases: &Leases, unlisted: UnlistedAddress) {
        for (ip, port) in endpoints(self.host, self.entry, self.port, leases, Pick::Leased) {
            // Straight through there is no other port than the dialled one.
            if self.class.needs_name() || port == self.port.number {
                let target = Target::address(ip, self.port.number, self.transport());
                claim(claims, target, self.action());
            }
        }
        if self.class.needs_name() {
            self.networks(claims, &self.entry.addresses);
            if unlisted == UnlistedAddress::ByName {
                claim(
                    claims,
                    Target::any(self.port.number, Transport::Tcp),
                    Action::Proxy,
                );
            }
        }
    }
}

/// Which addresses of a name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pick {
    /// All that clients may still dial.
    Leased,
    /// Those to dial from here.
    Newest,
}

fn endpoints(
    host: &str,
    entry: &Entry,
    port: &Port,
    leases: &Leases,
    pick: Pick,
) -> Vec<(IpAddr, u16)> {
    let of_name = |name: &str| match pick {
        Pick::Leased => leases.leased(name).collect(),
        Pick::Newest => leases.newest(name).to_vec(),
    };
    let fallback = port.target.unwrap_or(port.number);
    let Some(listed) = &entry.endpoints else {
        let own = if hosts::is_wildcard(host) || entry.resolution == Resolution::Static {
            Vec::new()
        } else {
            of_name(host)
        };
        return own.into_iter().map(|ip| (ip, fallback)).collect();
    };
    let mut found = Vec::new();
    for endpoint in listed {
        let number = endpoint.ports.get(&port.name).copied().unwrap_or(fallback);
        match &endpoint.location {
            Location::Ip(ip) => found.push((*ip, number)),
            Location::Name(name) => found.extend(of_name(name).into_iter().map(|ip| (ip, number))),
        }
    }
    found
}

/// Where each port of a service is at the moment, for the proxy to dial.
pub fn clusters(service: &Service, leases: &Leases) -> BTreeMap<u16, Cluster> {
    service
        .ports()
        .into_keys()
        .map(|number| (number, cluster(service, number, leases)))
        .collect()
}

fn cluster(service: &Service, number: u16, leases: &Leases) -> Cluster {
    let resolution = service.resolution();
    let with_port = || {
        service
            .entries
            .iter()
            .filter_map(|e| e.port(number).map(|port| (e.as_ref(), port)))
    };
    let mut endpoints: Vec<SocketAddr> = with_port()
        .flat_map(|(e, port)| endpoints(&service.host, e, port, leases, Pick::Newest))
        .map(SocketAddr::from)
        .collect();
    // One logical host: the first address of the latest answer.
    if resolution == Resolution::DnsRoundRobin {
        endpoints.truncate(1);
    }
    endpoints.sort_unstable();
    endpoints.dedup();
    let target = || {
        with_port()
            .find_map(|(_, port)| port.target)
            .unwrap_or(number)
    };
    let original_dst = (resolution == Resolution::None).then(target);
    Cluster {
        host: service.host.to_string(),
        port: number,
        endpoints,
        original_dst,
    }
}
