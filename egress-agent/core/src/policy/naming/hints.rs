//! What people are told about an address: whose it is, and which rule comes nearest.
//!
//! Owns the words. Decides nothing.

use super::claims::{UnlistedAddress, transport};
use super::state::State;
use super::tables::Transport;
use crate::istio::service_entry::Resolution;
use crate::registry::services::{Class, Entry, Location, Port, Service};
use egress_ebpf::addr::Addr;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// Most hosts that one hint names.
const NAMED: usize = 3;
/// Most names with changing answers that one look goes through.
const LOOKED_AT: usize = 64;

impl State {
    /// Hosts of the services that have this address at the moment, or would have it if it were
    /// public, sorted.
    pub fn names_of(&self, addr: IpAddr) -> Vec<String> {
        let mut hosts = self.hosts_of(addr);
        hosts.extend(self.hosts_left_out(addr));
        hosts.iter().map(ToString::to_string).collect()
    }

    fn hosts_of(&self, addr: IpAddr) -> BTreeSet<Arc<str>> {
        let addr = Addr::from(addr).canonical();
        let mut hosts: BTreeSet<_> = self.users_of(self.leases.names_of(addr)).cloned().collect();
        let services = self.policies.values().flat_map(|p| &p.view.services);
        let fixed = services
            .filter(|(_, s)| lists(s, addr.into()))
            .map(|(host, _)| host);
        hosts.extend(fixed.cloned());
        hosts
    }

    /// Hosts of whose answers this address was left out as not public.
    fn hosts_left_out(&self, addr: IpAddr) -> impl Iterator<Item = Arc<str>> {
        let names = self.leases.names_left_out(Addr::from(addr));
        self.users_of(names).cloned()
    }

    fn users_of<'a>(
        &'a self,
        names: impl Iterator<Item = &'a Arc<str>>,
    ) -> impl Iterator<Item = &'a Arc<str>> {
        names.filter_map(|name| self.users.get(name)).flatten()
    }

    /// One line about the rule that comes nearest to a flow that `policy` denied, and the setting
    /// that would let it pass; `None` if no rule knows the address.
    pub fn nearest(&self, policy: u32, addr: IpAddr, port: u16, via: Transport) -> Option<String> {
        let view = &self.policies.get(&policy)?.view;
        let hosts = self.hosts_of(addr);
        let here: Vec<_> = hosts
            .iter()
            .filter_map(|host| view.services.get(host))
            .collect();
        let lists_port = |s: &&Arc<Service>| s.class(port).is_some_and(|c| transport(c) == via);
        if let Some(service) = here.iter().copied().find(lists_port) {
            return Some(format!(
                "{} lists port {port}, but not this way",
                service.host
            ));
        }
        let visible = |host: &Arc<str>| view.services.get(host);
        let mut left_out: Vec<_> = self
            .hosts_left_out(addr)
            .filter_map(|host| visible(&host))
            .collect();
        left_out.sort_by_key(|s| &s.host);
        if let Some(service) = left_out.iter().copied().find(lists_port) {
            return Some(format!(
                "{} lists port {port}; DNS gives it this address, which is not public: \
                 allowPrivateAnswers accepts all such addresses, privateAnswers those of one network",
                service.host
            ));
        }
        let mut services = view.services.values();
        if let Some(service) = services.find(|s| lists_unspelt(s, port, via).is_some()) {
            return Some(unspelt(service, port));
        }
        let rotating = self.users_of(self.leases.rotating()).take(LOOKED_AT);
        let rotating = rotating.filter_map(visible).filter(lists_port);
        let hint = moved(rotating, port, self.settings().unlisted_address);
        hint.or_else(|| {
            let service = here.first().or(left_out.first())?;
            Some(format!("{} lists {}", service.host, ports(service)))
        })
    }
}

/// What helps where the answers of services change, if the denied address is in one that the agent
/// has not seen.
fn moved<'a>(
    services: impl Iterator<Item = &'a Arc<Service>>,
    port: u16,
    unlisted: UnlistedAddress,
) -> Option<String> {
    let by_name = |s: &Arc<Service>| s.class(port).is_some_and(Class::needs_name);
    // Under byName the kernel gives every address of a port whose name is checked to the proxy.
    let mut services = services.filter(|s| !(by_name(s) && unlisted == UnlistedAddress::ByName));
    let first = services.next()?;
    let setting = if by_name(first) {
        "unlistedAddress: byName decides by name instead of address"
    } else {
        "dns.minTTL and dns.grace keep addresses longer, spec.addresses lists networks"
    };
    let alike = services.filter(|s| by_name(s) == by_name(first));
    let hosts: BTreeSet<&str> = std::iter::once(first)
        .chain(alike)
        .map(|s| &*s.host)
        .take(NAMED)
        .collect();
    let hosts = hosts.into_iter().collect::<Vec<_>>().join(", ");
    Some(format!(
        "port {port} is listed for {hosts}, whose DNS answers change; if this address is in one of \
         them: {setting}"
    ))
}

/// Whether a service spells out an address, as VIP or endpoint.
fn lists(service: &Service, ip: IpAddr) -> bool {
    service.entries.iter().any(|e| {
        let endpoints = e
            .endpoints
            .iter()
            .flatten()
            .any(|e| e.location == Location::Ip(ip));
        let used = e.resolution != Resolution::DynamicDns;
        used && (endpoints || e.addresses.iter().any(|net| net.contains(&ip)))
    })
}

/// What to write where a port serves nothing because nobody wrote that it is open to any address.
pub(super) fn unspelt(service: &Service, port: u16) -> String {
    format!(
        "port {port} of {} serves nothing, because its resolution is not spelt out: write resolution: NONE \
         if the port shall be open to any address, DNS or STATIC if not",
        service.host
    )
}

/// The entry of a service that lists a port which serves nothing, since it would be open to any
/// address and nobody wrote so.
pub(super) fn lists_unspelt(service: &Service, port: u16, via: Transport) -> Option<&Arc<Entry>> {
    let is_it = |p: &Port| p.number == port && transport(p.class) == via;
    let mut entries = service.entries.iter();
    entries.find(|e| e.unspelt.iter().any(is_it))
}

/// The ports of a service, in words.
pub(super) fn ports(service: &Service) -> String {
    let one = |(n, p): (u16, &crate::registry::services::Port)| match transport(p.class) {
        Transport::Tcp => n.to_string(),
        Transport::Udp => format!("{n}/udp"),
    };
    let all: Vec<_> = service.ports().into_iter().map(one).collect();
    match all.as_slice() {
        [] => "no port".to_owned(),
        [port] => format!("port {port} only"),
        [first @ .., last] => format!("ports {} and {last} only", first.join(", ")),
    }
}
