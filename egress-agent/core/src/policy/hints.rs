//! What people are told about an address: whose it is, and which rule comes nearest.
//!
//! Owns the words. Decides nothing.

use super::claims::transport;
use super::state::State;
use super::tables::Transport;
use crate::istio::service_entry::Resolution;
use crate::registry::services::{Location, Service};
use egress_ebpf::addr::Addr;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

impl State {
    /// Hosts of the services that have this address at the moment, sorted.
    pub fn names_of(&self, addr: IpAddr) -> Vec<String> {
        self.hosts_of(addr)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    fn hosts_of(&self, addr: IpAddr) -> BTreeSet<Arc<str>> {
        let addr = Addr::from(addr).canonical();
        let mut hosts: BTreeSet<_> = self
            .leases
            .names_of(addr)
            .filter_map(|name| self.users.get(name))
            .flatten()
            .cloned()
            .collect();
        let services = self.policies.values().flat_map(|p| &p.view.services);
        let fixed = services
            .filter(|(_, s)| lists(s, addr.into()))
            .map(|(host, _)| host);
        hosts.extend(fixed.cloned());
        hosts
    }

    /// One line about the rule that comes nearest to a flow that `policy` refused; `None` if no
    /// rule knows the address.
    pub fn nearest(&self, policy: u32, addr: IpAddr, port: u16, via: Transport) -> Option<String> {
        let view = &self.policies.get(&policy)?.view;
        let hosts = self.hosts_of(addr);
        let here: Vec<_> = hosts
            .iter()
            .filter_map(|host| view.services.get(host))
            .collect();
        let lists_port = |s: &&&Arc<Service>| s.class(port).is_some_and(|c| transport(c) == via);
        if let Some(service) = here.iter().find(lists_port) {
            return Some(format!(
                "{} lists port {port}, but not this way",
                service.host
            ));
        }
        let service = here.first()?;
        Some(format!("{} lists {}", service.host, ports(service)))
    }
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
