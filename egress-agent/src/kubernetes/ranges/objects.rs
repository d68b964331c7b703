//! The objects of the API that name ranges of the cluster, and which ranges each names. Pure.

use super::collected::{Found, Use};
use crate::kubernetes::{Kind, Metadata, Object};
use ipnet::IpNet;
use serde::Deserialize;
use std::net::IpAddr;

/// An object that names ranges.
pub(super) trait Source: Object {
    /// Its kind.
    const KIND: Kind;
    /// Whether every cluster has at least one. A list without any is then a mistake of the server.
    const ALWAYS: bool;

    /// Its ranges.
    fn ranges(&self) -> Vec<Found>;
}

/// Reads ranges and addresses; text that is neither is skipped.
fn found<'a>(of: Use, texts: impl IntoIterator<Item = &'a String>) -> Vec<Found> {
    let nets = texts.into_iter().filter_map(|text| {
        let net = text.parse::<IpNet>().ok();
        net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
    });
    nets.map(|net| Found {
        of,
        net: net.trunc(),
    })
    .collect()
}

macro_rules! object {
    ($name:ident) => {
        impl Object for $name {
            fn metadata(&self) -> &Metadata {
                &self.metadata
            }
        }
    };
}

/// A node: its addresses, and the ranges of its pods where the controller manager allocates them.
#[derive(Debug, Deserialize)]
pub(super) struct Node {
    metadata: Metadata,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs")]
    pod_cidrs: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Debug, Deserialize)]
struct NodeAddress {
    r#type: String,
    address: String,
}

object!(Node);

impl Source for Node {
    const KIND: Kind = Kind {
        group: "",
        versions: &["v1"],
        plural: "nodes",
    };
    const ALWAYS: bool = true;

    fn ranges(&self) -> Vec<Found> {
        let addresses = self.status.addresses.iter().flatten();
        let own = addresses.filter(|address| address.r#type == "InternalIP");
        let mut all = found(Use::Nodes, own.map(|address| &address.address));
        let pods = self.spec.pod_cidrs.as_deref().unwrap_or_default();
        all.extend(match pods {
            [] => found(Use::Pods, [&self.spec.pod_cidr]),
            pods => found(Use::Pods, pods),
        });
        all
    }
}

/// A range of Service addresses (Kubernetes 1.33; beta from 1.31).
#[derive(Debug, Deserialize)]
pub(super) struct ServiceCidr {
    metadata: Metadata,
    #[serde(default)]
    spec: ServiceCidrSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ServiceCidrSpec {
    cidrs: Option<Vec<String>>,
}

object!(ServiceCidr);

impl Source for ServiceCidr {
    const KIND: Kind = Kind {
        group: "networking.k8s.io",
        versions: &["v1", "v1beta1"],
        plural: "servicecidrs",
    };
    const ALWAYS: bool = true;

    fn ranges(&self) -> Vec<Found> {
        found(Use::Services, self.spec.cidrs.iter().flatten())
    }
}

/// A Service. Followed only where the server has no [`ServiceCidr`].
#[derive(Debug, Deserialize)]
pub(super) struct Service {
    metadata: Metadata,
    #[serde(default)]
    spec: ServiceSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
}

object!(Service);

impl Source for Service {
    const KIND: Kind = Kind {
        group: "",
        versions: &["v1"],
        plural: "services",
    };
    const ALWAYS: bool = true;

    fn ranges(&self) -> Vec<Found> {
        // A headless Service has the text `None`.
        found(Use::Services, self.spec.cluster_ips.iter().flatten())
    }
}

/// The addresses of the API servers: `default/kubernetes`, which they keep up to date themselves.
#[derive(Debug, Deserialize)]
pub(super) struct EndpointSlice {
    metadata: Metadata,
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Endpoint {
    addresses: Option<Vec<String>>,
}

object!(EndpointSlice);

impl Source for EndpointSlice {
    const KIND: Kind = Kind {
        group: "discovery.k8s.io",
        versions: &["v1"],
        plural: "endpointslices",
    };
    const ALWAYS: bool = true;

    fn ranges(&self) -> Vec<Found> {
        let endpoints = self.endpoints.iter().flatten();
        let addresses = endpoints.flat_map(|endpoint| endpoint.addresses.iter().flatten());
        found(Use::ApiServer, addresses)
    }
}

/// A range of pods that Calico allocates from.
#[derive(Debug, Deserialize)]
pub(super) struct IpPool {
    metadata: Metadata,
    #[serde(default)]
    spec: IpPoolSpec,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct IpPoolSpec {
    cidr: String,
}

object!(IpPool);

impl Source for IpPool {
    const KIND: Kind = Kind {
        group: "crd.projectcalico.org",
        versions: &["v1"],
        plural: "ippools",
    };
    const ALWAYS: bool = false;

    fn ranges(&self) -> Vec<Found> {
        found(Use::Pods, [&self.spec.cidr])
    }
}

/// A ConfigMap of `kube-system` that names ranges: kubeadm's and Cilium's.
#[derive(Debug, Deserialize)]
pub(super) struct ConfigMap {
    metadata: Metadata,
    #[serde(default)]
    data: Option<std::collections::BTreeMap<String, String>>,
}

/// The names of these ConfigMaps.
pub(super) const CONFIG_MAPS: [&str; 2] = ["cilium-config", "kubeadm-config"];

object!(ConfigMap);

/// The part of kubeadm's `ClusterConfiguration` that names ranges.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ClusterConfiguration {
    control_plane_endpoint: String,
    networking: Networking,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Networking {
    pod_subnet: String,
    service_subnet: String,
}

impl Source for ConfigMap {
    const KIND: Kind = Kind {
        group: "",
        versions: &["v1"],
        plural: "configmaps",
    };
    const ALWAYS: bool = false;

    fn ranges(&self) -> Vec<Found> {
        let value = |key: &str| self.data.as_ref().and_then(|data| data.get(key));
        match self.metadata.name.as_str() {
            "cilium-config" => ["cluster-pool-ipv4-cidr", "cluster-pool-ipv6-cidr"]
                .into_iter()
                .filter_map(value)
                .flat_map(|text| found(Use::Pods, &list(text)))
                .collect(),
            "kubeadm-config" => {
                let text = value("ClusterConfiguration").map_or("", String::as_str);
                let cluster: ClusterConfiguration = serde_yaml::from_str(text).unwrap_or_default();
                let mut all = found(Use::Pods, &list(&cluster.networking.pod_subnet));
                all.extend(found(
                    Use::Services,
                    &list(&cluster.networking.service_subnet),
                ));
                all.extend(found(
                    Use::ApiServer,
                    [&host(&cluster.control_plane_endpoint)],
                ));
                all
            }
            _ => Vec::new(),
        }
    }
}

/// Ranges separated by commas or spaces.
fn list(text: &str) -> Vec<String> {
    let parts = text.split([',', ' ']).filter(|part| !part.is_empty());
    parts.map(str::to_owned).collect()
}

/// The host of `host`, `host:port` or `[host]:port`.
fn host(endpoint: &str) -> String {
    if let Some((host, _)) = endpoint
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        return host.to_owned();
    }
    match endpoint.rsplit_once(':') {
        Some((host, _)) if !host.contains(':') => host.to_owned(),
        _ => endpoint.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges<S: Source>(json: &str) -> Vec<String> {
        let object: S = serde_json::from_str(json).unwrap();
        let all = object.ranges().into_iter();
        all.map(|found| format!("{:?} {}", found.of, found.net))
            .collect()
    }

    #[test]
    fn a_node_has_addresses_and_ranges_of_pods() {
        let node = r#"{"metadata": {"name": "a"},
            "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"},
                {"type": "InternalIP", "address": "fc00::2"}, {"type": "Hostname", "address": "a"},
                {"type": "ExternalIP", "address": "203.0.113.2"}]}}"#;
        let expected = [
            "Nodes 172.18.0.2/32",
            "Nodes fc00::2/128",
            "Pods 10.244.1.0/24",
            "Pods fd00:10:244:1::/64",
        ];
        assert_eq!(ranges::<Node>(node), expected);
        let bare = r#"{"metadata": {"name": "a"}, "spec": {"podCIDR": "10.1.2.3/24"}, "status": {"addresses": null}}"#;
        assert_eq!(ranges::<Node>(bare), ["Pods 10.1.2.0/24"]);
        assert!(ranges::<Node>(r#"{"metadata": {"name": "a"}}"#).is_empty());
    }

    #[test]
    fn services_are_ranges_or_addresses() {
        let cidr = r#"{"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/112"]}}"#;
        let expected = ["Services 10.96.0.0/16", "Services fd00:10:96::/112"];
        assert_eq!(ranges::<ServiceCidr>(cidr), expected);
        let service =
            r#"{"metadata": {"name": "a"}, "spec": {"clusterIPs": ["10.96.0.10", "None"]}}"#;
        assert_eq!(ranges::<Service>(service), ["Services 10.96.0.10/32"]);
        let external = r#"{"metadata": {"name": "a"}, "spec": {"externalName": "db.example"}}"#;
        assert!(ranges::<Service>(external).is_empty());
    }

    #[test]
    fn the_api_server_has_endpoints() {
        let slice = r#"{"metadata": {"name": "kubernetes"}, "endpoints": [{"addresses": ["172.18.0.3"]}, {}]}"#;
        assert_eq!(ranges::<EndpointSlice>(slice), ["ApiServer 172.18.0.3/32"]);
        assert!(
            ranges::<EndpointSlice>(r#"{"metadata": {"name": "k"}, "endpoints": null}"#).is_empty()
        );
    }

    #[test]
    fn network_plugins_name_their_pools() {
        let pool = r#"{"metadata": {"name": "default"}, "spec": {"cidr": "192.168.0.0/16"}}"#;
        assert_eq!(ranges::<IpPool>(pool), ["Pods 192.168.0.0/16"]);
        let cilium = r#"{"metadata": {"name": "cilium-config"},
            "data": {"cluster-pool-ipv4-cidr": "10.0.0.0/8 10.1.0.0/16", "cluster-pool-ipv6-cidr": "fd00::/104"}}"#;
        let expected = ["Pods 10.0.0.0/8", "Pods 10.1.0.0/16", "Pods fd00::/104"];
        assert_eq!(ranges::<ConfigMap>(cilium), expected);
    }

    #[test]
    fn kubeadm_names_the_ranges_and_the_control_plane() {
        let of = |endpoint: &str| {
            let text = format!(
                "controlPlaneEndpoint: '{endpoint}'\\nnetworking: {{podSubnet: '10.244.0.0/16,fd00::/56', serviceSubnet: 10.96.0.0/12}}"
            );
            ranges::<ConfigMap>(&format!(
                r#"{{"metadata": {{"name": "kubeadm-config"}}, "data": {{"ClusterConfiguration": "{text}"}}}}"#
            ))
        };
        let common = [
            "Pods 10.244.0.0/16",
            "Pods fd00::/56",
            "Services 10.96.0.0/12",
        ];
        for (endpoint, address) in [
            ("198.51.100.9:6443", Some("ApiServer 198.51.100.9/32")),
            ("[2001:db8::9]:6443", Some("ApiServer 2001:db8::9/128")),
            ("2001:db8::9", Some("ApiServer 2001:db8::9/128")),
            ("api.example:6443", None),
            ("", None),
        ] {
            let expected: Vec<_> = common.into_iter().chain(address).collect();
            assert_eq!(of(endpoint), expected, "{endpoint}");
        }
        let broken =
            r#"{"metadata": {"name": "kubeadm-config"}, "data": {"ClusterConfiguration": "- ["}}"#;
        assert!(ranges::<ConfigMap>(broken).is_empty());
    }
}
