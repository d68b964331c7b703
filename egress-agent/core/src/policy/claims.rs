//! The entries that one service adds to the kernel's tables.
//!
//! Owns the mapping from protocol class and resolution of a port to its entries. Does not know
//! other services; `tables` forms the union.

use super::endpoints::{Pick, endpoints};
use super::leases::{Among, Leases};
use super::tables::{Action, Claims, Target, Transport, claim};
use crate::istio::service_entry::Resolution;
use crate::registry::plan::{HostPlan, PortPlan};
use crate::registry::services::{Class, Entry, Port, Service};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

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

/// The claims of a service, with the present addresses of its names, as far as they are of interest. `plan` says on which
/// ports a `VirtualService` has routes.
pub fn claims(
    service: &Service,
    plan: &HostPlan,
    (leases, among): (&Leases, Among<'_>),
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
            // The proxy reports why TCP is denied. UDP has none, so it is not listed.
            if class == Class::Udp && is_denied(plan, port.number) {
                continue;
            }
            let own = OfPort {
                host: &service.host,
                allocated: &service.allocated,
                entry,
                port,
                class,
                ruled: plan
                    .get(port.number)
                    .is_some_and(|plan| is_ruled(plan, entry.resolution)),
            };
            match entry.resolution {
                Resolution::None => own.as_dialled(&mut claims),
                Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin => {
                    own.resolved(&mut claims, (leases, among), unlisted);
                }
                Resolution::DynamicDns => own.by_name(&mut claims),
            }
        }
        learned(&mut claims, (&service.host, plan), entry, (leases, among));
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

/// Whether the proxy carries out a rule for a port, also for bytes that need no name.
fn is_ruled(plan: &PortPlan, resolution: Resolution) -> bool {
    let policy = &plan.own.policy;
    let chooses = resolution != Resolution::None && policy.chooses_endpoint();
    !plan.tcp.is_empty() || policy.needs_proxy() || chooses
}

/// Whether a rule that is invalid or not carried out denies a port.
fn is_denied(plan: &HostPlan, port: u16) -> bool {
    plan.get(port)
        .is_some_and(|plan| plan.own.policy.denied.is_some())
}

/// Ports that would be open to any address although nobody wrote so: they are open to the addresses of names that
/// workloads asked for and that the host lists. Ports whose name is checked are left out, because the proxy has no
/// routes for them.
fn learned(
    claims: &mut Claims,
    (host, plan): (&str, &HostPlan),
    entry: &Entry,
    (leases, among): (&Leases, Among<'_>),
) {
    let ports = entry.unspelt.iter();
    for port in ports.filter(|port| !is_denied(plan, port.number)) {
        if port.class.needs_name() || port.target.is_some_and(|t| t != port.number) {
            continue;
        }
        for ip in leases.learned_below(host, among) {
            let target = Target::address(ip, port.number, transport(port.class));
            claim(claims, target, Action::Allow);
        }
    }
}

/// The entries at single addresses that a service may claim on its ports.
pub fn targets_at(service: &Service, addresses: &BTreeSet<IpAddr>) -> BTreeSet<Target> {
    let ports = service.entries.iter();
    let ports = ports.flat_map(|e| e.ports.iter().chain(&e.unspelt));
    let numbers: BTreeSet<u16> = ports.map(|p| p.number).collect();
    let mut targets = BTreeSet::new();
    for ip in addresses {
        for number in &numbers {
            targets.insert(Target::address(*ip, *number, Transport::Tcp));
            targets.insert(Target::address(*ip, *number, Transport::Udp));
        }
    }
    targets
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
    fn resolved(
        &self,
        claims: &mut Claims,
        (leases, among): (&Leases, Among<'_>),
        unlisted: UnlistedAddress,
    ) {
        let udp = self.transport() == Transport::Udp;
        let pick = Pick::Leased(among);
        for (ip, port, _) in endpoints(self.host, self.entry, self.port, leases, pick) {
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
