//! `WorkloadEntry`: an address behind a service, alone or as an endpoint of a `ServiceEntry`.

use super::decode::macros::messages;
use std::collections::BTreeMap;

messages! {
    /// One endpoint (`networking/v1alpha3/workload_entry.proto`).
    WorkloadEntry {
        /// IP address, domain name or `unix://` path.
        address: String = "address",
        /// Service port name to endpoint port.
        ports: BTreeMap<String, u32> = "ports",
        /// Labels, for subsets and selectors.
        labels: BTreeMap<String, String> = "labels",
        /// Network that the address belongs to.
        network: String = "network",
        /// `region/zone/subzone`.
        locality: String = "locality",
        /// Weight in load balancing; 0 means 1.
        weight: u32 = "weight",
        /// Service account of the workload.
        service_account: String = "serviceAccount",
    }
}
