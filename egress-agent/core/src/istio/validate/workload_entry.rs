//! Rules of `WorkloadEntry`, alone and as an endpoint.

use super::addresses::{UNIX_PREFIX, is_ip, unix_path};
use super::check::Check;
use super::{common, names};
use crate::istio::workload_entry::WorkloadEntry;
use std::collections::BTreeSet;

/// Names of the ports of the service that an endpoint belongs to.
pub type PortNames<'s> = BTreeSet<&'s str>;

/// Checks an entry, given the ports of its service if it is an endpoint.
pub fn workload_entry(
    check: &mut Check<'_>,
    entry: &WorkloadEntry,
    service_ports: Option<&PortNames<'_>>,
    names_allowed: bool,
) {
    let address = entry.address.as_str();
    let unix = address.strip_prefix(UNIX_PREFIX);
    if address.is_empty() && entry.network.is_empty() {
        check.error("address is required");
        return;
    }
    check.at("address", |check| {
        if address.is_empty() {
            check.warn(format!("address is unset with network {:?}", entry.network));
        } else if let Some(path) = unix {
            check.require(unix_path(path));
        } else if !is_ip(address) {
            if !names_allowed {
                check.error(format!(
                    "endpoint address {address:?} is not a valid IP address"
                ));
            } else if names::fqdn(address).is_err() {
                check.error(not_an_address(address));
            }
        }
    });
    if unix.is_some() && !entry.ports.is_empty() {
        check.at("ports", |check| {
            check.error(format!("unix endpoint {address} must not include ports"));
        });
    }
    ports(check, entry, service_ports);
    common::labels(check, "labels", &entry.labels);
    if unix.is_some() && service_ports.is_some_and(|ports| ports.len() != 1) {
        check.error("exactly 1 service port required for unix endpoints");
    }
}

/// Checks the endpoint of a service whose addresses may be names.
pub fn dns_endpoint(check: &mut Check<'_>, entry: &WorkloadEntry, service_ports: &PortNames<'_>) {
    let address = entry.address.as_str();
    if !is_ip(address) && names::fqdn(address).is_err() {
        check.at("address", |check| check.error(not_an_address(address)));
    }
    common::labels(check, "labels", &entry.labels);
    ports(check, entry, Some(service_ports));
}

fn not_an_address(address: &str) -> String {
    format!("endpoint address {address:?} is not a valid FQDN or an IP address")
}

fn ports(check: &mut Check<'_>, entry: &WorkloadEntry, service_ports: Option<&PortNames<'_>>) {
    check.each_entry("ports", &entry.ports, |check, name, port| {
        if service_ports.is_some_and(|ports| !ports.contains(name)) {
            check.error(format!(
                "endpoint port {port} is not defined by the service entry"
            ));
        }
        check.require(common::port_name(name));
        check.require(common::port(*port));
    });
}
