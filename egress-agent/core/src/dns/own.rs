//! What a rule says about the addresses of a host, whatever DNS says of the host's name.

use super::decision::Endpoints;
use crate::istio::hosts;
use crate::istio::service_entry::Resolution;
use crate::registry::services::{Class, Location, Service};
use std::net::IpAddr;

/// The addresses that a rule gives a host.
pub(super) enum Own {
    /// These, because clients dial them: single `addresses`, as in Istio's DNS proxy.
    Addresses(Vec<IpAddr>),
    /// These, which the agent gave the host.
    Allocated(Vec<IpAddr>),
    /// Those of its `endpoints`, because the gate allows no others.
    Endpoints(Endpoints),
}

/// See [`Own`]; `None` if DNS knows the host's addresses.
pub(super) fn own(service: &Service) -> Option<Own> {
    let single =
        |net: &ipnet::IpNet| (net.prefix_len() == net.max_prefix_len()).then(|| net.addr());
    let listed = service.entries.iter().flat_map(|e| &e.addresses);
    let listed: Vec<IpAddr> = listed.filter_map(single).collect();
    // Only the proxy leads from `addresses` to endpoints, and it has no UDP.
    let udp = service.ports().values().any(|p| p.class == Class::Udp);
    let as_dialled = service.resolution() == Resolution::None;
    if !listed.is_empty() && (as_dialled || !udp) {
        return Some(Own::Addresses(listed));
    }
    if !service.allocated.is_empty() {
        let allocated = service.allocated.iter().filter_map(single);
        return Some(Own::Allocated(allocated.collect()));
    }
    if service.entries.iter().all(|e| e.endpoints.is_none()) {
        return None;
    }
    let mut endpoints = Endpoints::default();
    for entry in &service.entries {
        let Some(listed) = &entry.endpoints else {
            // The host itself is an endpoint of this entry.
            let resolved = !as_dialled && !hosts::is_wildcard(&service.host);
            endpoints
                .names
                .extend(resolved.then(|| service.host.clone()));
            continue;
        };
        for endpoint in listed {
            match &endpoint.location {
                Location::Ip(ip) => endpoints.fixed.push(*ip),
                Location::Name(name) => endpoints.names.push(name.clone()),
            }
        }
    }
    Some(Own::Endpoints(endpoints))
}
