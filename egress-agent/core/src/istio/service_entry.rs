//! `ServiceEntry`: allowed hosts, with their ports and the way their addresses are found.

use super::decode::macros::{enums, messages};
use super::fields::WorkloadSelector;
use super::hosts;
use super::workload_entry::WorkloadEntry;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

enums! {
    /// Whether the service belongs to the mesh.
    Location = "ServiceEntry.Location" {
        /// Outside; no mutual TLS of the mesh.
        MeshExternal = "0" "MESH_EXTERNAL",
        /// Inside.
        MeshInternal = "1" "MESH_INTERNAL",
    }

    /// How the endpoints of a host are found.
    Resolution = "ServiceEntry.Resolution" {
        /// The address that the client dialled.
        None = "0" "NONE",
        /// The addresses of `endpoints`, or of selected workloads.
        Static = "1" "STATIC",
        /// All addresses that DNS gives.
        Dns = "2" "DNS",
        /// The first address of the latest DNS answer.
        DnsRoundRobin = "3" "DNS_ROUND_ROBIN",
        /// The name that the client asks for, at the time of the request.
        DynamicDns = "4" "DYNAMIC_DNS",
    }
}

messages! {
    /// Hosts outside (`networking/v1alpha3/service_entry.proto`).
    ServiceEntry {
        /// Names; `*` only as the first label.
        hosts: Vec<String> = "hosts",
        /// Addresses or CIDRs that clients dial; never the endpoints.
        addresses: Vec<String> = "addresses",
        /// Ports of the service.
        ports: Vec<ServicePort> = "ports",
        /// Inside or outside the mesh.
        location: Location = "location",
        /// How endpoints are found, where it is written; see [`ServiceEntry::resolution`].
        resolution: Option<Resolution> = "resolution",
        /// Endpoints by address.
        endpoints: Vec<WorkloadEntry> = "endpoints",
        /// Endpoints by labels; excludes `endpoints`.
        workload_selector: Option<WorkloadSelector> = "workloadSelector",
        /// Namespaces that see it: `.`, `*`, `~` or names; empty means all.
        export_to: Vec<String> = "exportTo",
        /// Names to verify when TLS is originated and the `DestinationRule` has none.
        subject_alt_names: Vec<String> = "subjectAltNames",
    }

    /// One port of a service.
    ServicePort {
        /// Port that clients dial.
        number: u32 = "number",
        /// Protocol as it is written; empty means that it is sniffed.
        protocol: String = "protocol",
        /// Name, the key of `endpoints[].ports`.
        name: String = "name",
        /// Port of the endpoints; 0 means `number`.
        target_port: u32 = "targetPort",
    }
}

impl ServiceEntry {
    /// Whether its ports would be open to any address only because `resolution` was left out, as a
    /// misspelt field leaves it out too.
    pub fn opens_by_default(&self) -> bool {
        self.resolution.is_none() && self.addresses.is_empty()
    }

    /// Whether Istio gives its hosts addresses where it has none; `labels` are those of the object
    /// (istio `pilot/pkg/networking/serviceentry/ip_autoallocation.go`).
    pub fn is_auto_allocated(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = labels.get("networking.istio.io/enable-autoallocate-ip");
        self.resolution() != Resolution::None
            && label.is_none_or(|value| !value.eq_ignore_ascii_case("false"))
    }

    /// The names that DNS is asked for if some workload sees the entry and no older one for the same host is different.
    pub fn resolved_names(&self) -> impl Iterator<Item = Arc<str>> {
        let resolution = self.resolution();
        let resolved = matches!(resolution, Resolution::Dns | Resolution::DnsRoundRobin);
        let own = self.endpoints.is_empty() && self.workload_selector.is_none();
        let own = self.hosts.iter().filter(move |_| own);
        let own = own.filter(|host| !hosts::is_wildcard(host));
        let listed = self.endpoints.iter().map(|endpoint| &endpoint.address);
        let listed = listed.filter(|a| a.parse::<IpAddr>().is_err() && !a.starts_with("unix://"));
        let names = own.chain(listed).filter(move |_| resolved);
        names.map(|name| hosts::canonical(name))
    }

    /// How endpoints are found: `NONE` where the object does not say.
    pub fn resolution(&self) -> Resolution {
        self.resolution.unwrap_or_default()
    }
}
