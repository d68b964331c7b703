//! Rules of `ServiceEntry`.

use super::check::Check;
use super::common::{self, Exporter};
use super::workload_entry::{PortNames, dns_endpoint, workload_entry};
use super::{addresses, names};
use crate::istio::protocol::Protocol;
use crate::istio::service_entry::{Location, Resolution, ServiceEntry};
use std::collections::BTreeSet;

/// Checks the spec of a `ServiceEntry`.
pub fn service_entry(check: &mut Check<'_>, entry: &ServiceEntry) {
    if !common::workload_selector(check, "service entry", entry.workload_selector.as_ref()) {
        return;
    }
    if entry.workload_selector.is_some() && !entry.endpoints.is_empty() {
        check.error("only one of WorkloadSelector or Endpoints is allowed in Service Entry");
    }
    hosts(check, entry);
    check.each("addresses", &entry.addresses, |check, address| {
        check.require(addresses::subnet(address));
    });
    let has_cidr = entry.addresses.iter().any(|address| address.contains('/'));
    if has_cidr && !matches!(entry.resolution(), Resolution::None | Resolution::Static) {
        check.at("addresses", |check| {
            check.error("CIDR addresses are allowed only for NONE/STATIC resolution types");
        });
    }
    ports(check, entry);
    let names: PortNames<'_> = entry.ports.iter().map(|port| port.name.as_str()).collect();
    match entry.resolution() {
        Resolution::None => {
            if !entry.endpoints.is_empty() {
                check.at("endpoints", |check| {
                    check.error("no endpoints should be provided for resolution type none");
                });
            }
            if entry.workload_selector.is_some() {
                check.at("workloadSelector", |check| {
                    check.warn("workloadSelector should not be set when resolution mode is NONE");
                });
            }
        }
        Resolution::Static => check.each("endpoints", &entry.endpoints, |check, endpoint| {
            workload_entry(check, endpoint, Some(&names), false);
        }),
        Resolution::Dns | Resolution::DnsRoundRobin => by_dns(check, entry, &names),
        Resolution::DynamicDns => by_dynamic_dns(check, entry),
    }
    // Plain TCP has nothing that tells several hosts apart; with NONE the hosts are ignored.
    let several = entry.resolution() != Resolution::None && entry.hosts.len() > 1;
    let blind = entry.ports.iter().position(|port| {
        Protocol::parse(&port.protocol)
            .is_none_or(|protocol| !protocol.is_http() && !protocol.is_tls())
    });
    if several && let Some(index) = blind {
        check.element("ports", index, |check| {
            check.error("multiple hosts provided with non-HTTP, non-TLS ports");
        });
    }
    common::export_to(check, &entry.export_to, Exporter::ServiceEntry);
}

fn hosts(check: &mut Check<'_>, entry: &ServiceEntry) {
    if entry.hosts.is_empty() {
        check.error("service entry must have at least one host");
    }
    check.each("hosts", &entry.hosts, |check, host| {
        if host == "*" {
            check.error("invalid host *");
            return;
        }
        check.require(names::host(host));
        if entry.resolution() != Resolution::DynamicDns
            && let Err(reason) = names::partial_wildcard(host)
        {
            check.warn(reason);
        }
    });
}

fn ports(check: &mut Check<'_>, entry: &ServiceEntry) {
    let labels = &check.object().meta.labels;
    let needs_addresses = entry.addresses.is_empty() && !entry.is_auto_allocated(labels);
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    check.each("ports", &entry.ports, |check, port| {
        if !names.insert(port.name.clone()) {
            check.at("name", |check| check.error(format!("service entry port name {:?} already defined", port.name)));
        }
        if !numbers.insert(port.number) {
            check.at("number", |check| check.error(format!("service entry port {} already defined", port.number)));
        }
        if port.target_port != 0 {
            check.at("targetPort", |check| check.require(common::port(port.target_port)));
        }
        if needs_addresses && (port.protocol.is_empty() || port.protocol == "TCP") {
            check.warn(
                "addresses are required for ports serving TCP (or unset) protocol when IP Autoallocation is not enabled",
            );
        }
        check.at("name", |check| check.require(common::port_name(&port.name)));
        check.at("protocol", |check| check.require(common::protocol(&port.protocol)));
        check.at("number", |check| check.require(common::port(port.number)));
    });
}

fn by_dns(check: &mut Check<'_>, entry: &ServiceEntry, port_names: &PortNames<'_>) {
    let mode = entry.resolution().as_str();
    if entry.endpoints.is_empty() {
        check.each("hosts", &entry.hosts, |check, host| {
            if let Err(reason) = names::fqdn(host) {
                check.error(format!(
                    "hosts must be FQDN or contain only prefix wildcards if no endpoints are provided for resolution mode {mode}, {reason}"
                ));
            }
        });
    }
    if entry.resolution() == Resolution::DnsRoundRobin && entry.endpoints.len() > 1 {
        check.at("endpoints", |check| {
            check.error(format!(
                "there must only be 0 or 1 endpoint for resolution mode {mode}"
            ));
        });
    }
    check.each("endpoints", &entry.endpoints, |check, endpoint| {
        dns_endpoint(check, endpoint, port_names);
    });
    let is_tcp = |name: &str| Protocol::parse(name).is_some_and(Protocol::is_tcp);
    if !entry.addresses.is_empty()
        && entry.hosts.len() > 1
        && entry.ports.iter().any(|port| is_tcp(&port.protocol))
    {
        check.warn("service entry can not have more than one host specified simultaneously with address and tcp port");
    }
}

/// The reasons are Istio's, missing spaces and all, so that a search for them finds something.
fn by_dynamic_dns(check: &mut Check<'_>, entry: &ServiceEntry) {
    if entry.hosts.is_empty() {
        check.error("at least one wildcard host must be provided for resolution type DYNAMIC_DNS");
    }
    check.each("hosts", &entry.hosts, |check, host| {
        if !host.starts_with('*') {
            check.error("host must be wildcarded for resolution mode DYNAMIC_DNS");
        }
    });
    if !entry.addresses.is_empty() {
        check.at("addresses", |check| {
            check.error(
                "addresses cannot be set for resolution type DYNAMIC_DNS. HTTP route domains will only be generatedfrom the hosts field values",
            );
        });
    }
    if !entry.endpoints.is_empty() {
        check.at("endpoints", |check| {
            check.error(
                "endpoints cannot be set for resolution type DYNAMIC_DNS. Destination IP address determined from hostsfield values",
            );
        });
    }
    check.each("ports", &entry.ports, |check, port| {
        let fits = matches!(
            Protocol::parse(&port.protocol),
            Some(Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Tls)
        );
        if !fits {
            check.at("protocol", |check| {
                check.error("only HTTP, TLS, GRPC, and HTTP2 protocols are supported for resolution type DYNAMIC_DNS");
            });
        }
    });
    let waypoint = check.object().meta.labels.get("istio.io/use-waypoint");
    if entry.location == Location::MeshInternal && waypoint.is_some_and(|name| name != "none") {
        check.at("location", |check| {
            check.error("location MESH_INTERNAL with resolution type DYNAMIC_DNS is not supported when using waypoints");
        });
    }
}
