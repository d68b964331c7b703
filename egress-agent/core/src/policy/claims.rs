//! The entries that one service adds to the kernel's tables, and the addresses at which its ports
//! are dialled.
//!
//! Owns the mapping from protocol class and resolution of a port to its entries. Does not know
//! other services; `tables` forms the union.

use super::leases::Leases;
use super::tables::{Action, Claims, Target, Transport, claim};
use crate::istio::hosts;
use crate::istio::service_entry::Resolution;
use crate::registry::plan::{HostPlan, Subset, To};
use crate::registry::services::{Class, Endpoint, Entry, Location, Port, Service};
use crate::routing::Cluster;
use crate::traffic::{Balance, ClusterPolicy, UpstreamProtocol};
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What happens to a connection to an address that does not belong to the host, on a port whose name is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnlistedAddress {
    /// The kernel denies it.
    #[default]
    Refuse,
    /// It goes to the proxy: Host or SNI decides, and the proxy dials an address that the agent resolved, as in
    /// Istio.
    ByName,
}

/// The claims of a service, with the present addresses of its names. `plan` says on which ports a `VirtualService`
/// has routes.
pub fn claims(
    service: &Service,
    plan: &HostPlan,
    leases: &Leases,
    unlisted: UnlistedAddress,
) -> Claims {
    let mut claims = Claims::new();
    let ports = service.ports();
    for entry in &service.entries {
        for port in &entry.ports {
            // If two entries list the same port, the older one's protocol counts.
            let Some(class) = ports.get(&port.number).map(|p| p.class) else {
                continue;
            };
            let own = OfPort {
                host: &service.host,
                allocated: &service.allocated,
                entry,
                port,
                class,
                ruled: plan
                    .get(port.number)
                    .is_some_and(|p| !p.tcp.is_empty() || p.own.policy.needs_proxy()),
            };
            match entry.resolution {
                Resolution::None => own.as_dialled(&mut claims),
                Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => {
                    own.resolved(&mut claims, leases, unlisted);
                }
                Resolution::DynamicDns => own.by_name(&mut claims),
            }
        }
        learned(&mut claims, &service.host, entry, leases);
    }
    for (port, plan) in plan.iter() {
        for net in plan.tcp.iter().filter_map(|r| r.nets.as_ref()).flatten() {
            for target in Target::network(*net, port, Transport::Tcp) {
                claim(&mut claims, target, Action::Proxy);
            }
        }
    }
    claims
}

/// Ports that would be open to any address although nobody wrote so: they are open to the addresses of names that
/// workloads asked for and that the host lists. Ports whose name is checked are left out, because the proxy has no
/// routes for them.
fn learned(claims: &mut Claims, host: &str, entry: &Entry, leases: &Leases) {
    for port in &entry.unspelt {
        if port.class.needs_name() || port.target.is_some_and(|t| t != port.number) {
            continue;
        }
        for name in leases.learned_by(host) {
            for ip in leases.leased(name) {
                let target = Target::address(ip, port.number, transport(port.class));
                claim(claims, target, Action::Allow);
            }
        }
    }
}

struct OfPort<'a> {
    host: &'a str,
    allocated: &'a [IpNet],
    entry: &'a Entry,
    port: &'a Port,
    class: Class,
    /// A tcp route of a `VirtualService` decides its destination, or the proxy carries out a policy or reports why it is
    /// denied.
    ruled: bool,
}

/// The transport of a port of this class.
pub const fn transport(class: Class) -> Transport {
    match class {
        Class::Udp => Transport::Udp,
        Class::Http | Class::Tls | Class::Tcp | Class::Sniffed => Transport::Tcp,
    }
}

impl OfPort<'_> {
    const fn transport(&self) -> Transport {
        transport(self.class)
    }

    const fn action(&self) -> Action {
        if self.class.needs_name() || self.ruled {
            Action::Proxy
        } else {
            Action::Allow
        }
    }

    fn networks(&self, claims: &mut Claims, nets: &[IpNet], action: Action) {
        for net in nets {
            for target in Target::network(*net, self.port.number, self.transport()) {
                claim(claims, target, action);
            }
        }
    }

    /// Resolution NONE: the dialled address is the destination. Without `addresses` that is any address. On a port
    /// with names the proxy still checks the name.
    fn as_dialled(&self, claims: &mut Claims) {
        let moved = self.port.target.is_some_and(|t| t != self.port.number);
        let action = match (moved, self.transport()) {
            // Only the proxy can lead to another port than the dialled one.
            (true, Transport::Udp) => return,
            (true, Transport::Tcp) => Action::Proxy,
            (false, _) => self.action(),
        };
        if self.entry.addresses.is_empty() {
            let target = Target::any(self.port.number, self.transport());
            claim(claims, target, action);
        } else {
            self.networks(claims, &self.entry.addresses, action);
        }
    }

    /// `DYNAMIC_DNS`: the client may dial any address, and the proxy dials those of the name that the client asks for.
    fn by_name(&self, claims: &mut Claims) {
        if self.class.needs_name() {
            let target = Target::any(self.port.number, Transport::Tcp);
            claim(claims, target, Action::Proxy);
        }
    }

    /// The client must dial an address of the host, or one of `addresses` or of those that the agent allocated. From
    /// these only the proxy can lead to the host.
    fn resolved(&self, claims: &mut Claims, leases: &Leases, unlisted: UnlistedAddress) {
        let udp = self.transport() == Transport::Udp;
        for (ip, port, _) in endpoints(self.host, self.entry, self.port, leases, Pick::LEASED) {
            let target = Target::address(ip, self.port.number, self.transport());
            if port == self.port.number {
                claim(claims, target, self.action());
            } else if !udp {
                claim(claims, target, Action::Proxy);
            }
        }
        if !udp {
            self.networks(claims, &self.entry.addresses, Action::Proxy);
            self.networks(claims, self.allocated, Action::Proxy);
        }
        if self.class.needs_name() && unlisted == UnlistedAddress::ByName {
            let target = Target::any(self.port.number, Transport::Tcp);
            claim(claims, target, Action::Proxy);
        }
    }
}

/// Which endpoints to return.
#[derive(Clone, Copy)]
struct Pick<'a> {
    /// All addresses that clients may still dial, not only those that the proxy dials.
    leased: bool,
    labels: Option<&'a BTreeMap<String, String>>,
}

impl Pick<'_> {
    const LEASED: Pick<'static> = Pick {
        leased: true,
        labels: None,
    };
}

/// Address, port and weight of each endpoint.
fn endpoints(
    host: &str,
    entry: &Entry,
    port: &Port,
    leases: &Leases,
    pick: Pick<'_>,
) -> Vec<(IpAddr, u16, u32)> {
    let of_name = |name: &str| {
        if pick.leased {
            leases.leased(name).collect()
        } else {
            leases.newest(name).to_vec()
        }
    };
    let fallback = port.target.unwrap_or(port.number);
    let Some(listed) = &entry.endpoints else {
        // The host itself is an endpoint without labels.
        let labelled = pick.labels.is_some_and(|l| !l.is_empty());
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
        pick.labels.is_none_or(|l| l.iter().all(has))
    };
    let mut found = Vec::new();
    for endpoint in listed.iter().filter(chosen) {
        let number = endpoint.ports.get(&port.name).copied().unwrap_or(fallback);
        match &endpoint.location {
            Location::Ip(ip) => found.push((*ip, number, endpoint.weight)),
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
    let pick = Pick {
        leased: false,
        labels,
    };
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
                for (ip, to, _) in endpoints(&service.host, entry, port, leases, Pick::LEASED) {
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
