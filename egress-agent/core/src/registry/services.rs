//! Services: one for each host that `ServiceEntry`s list, with ports, addresses and endpoints.
//!
//! Owns how several entries for one host become one service. Does not resolve names.

use crate::istio::Object;
use crate::istio::hosts;
use crate::istio::service_entry::{Resolution, ServiceEntry};
use crate::istio::workload_entry::WorkloadEntry;
use crate::traffic::UpstreamProtocol;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What a port's protocol means for a flow (istio `pkg/config/protocol/instance.go`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Class {
    /// HTTP, HTTP2, `HTTP_PROXY`, gRPC and gRPC-Web: decided by Host.
    Http,
    /// HTTPS and TLS: decided by SNI.
    Tls,
    /// TCP, Mongo, Redis and `MySQL`: decided by address.
    Tcp,
    /// UDP.
    Udp,
    /// No protocol given: decided by the first bytes.
    Sniffed,
}

impl Class {
    /// From `ports[].protocol`; `None` for a protocol that Istio does not know.
    pub fn parse(protocol: &str) -> Option<Self> {
        Some(match protocol.to_ascii_lowercase().as_str() {
            "" => Self::Sniffed,
            "http" | "http2" | "http_proxy" | "grpc" | "grpc-web" => Self::Http,
            "https" | "tls" => Self::Tls,
            "tcp" | "mongo" | "redis" | "mysql" => Self::Tcp,
            "udp" => Self::Udp,
            _ => return None,
        })
    }

    /// Whether a name must be checked, which only the proxy can do.
    pub const fn needs_name(self) -> bool {
        matches!(self, Self::Http | Self::Tls | Self::Sniffed)
    }

    /// Whether a flow without a name is decided by its address alone.
    pub const fn is_opaque(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sniffed)
    }

    /// Whether bytes to a TCP port may have no name.
    pub(super) const fn may_be_nameless(self) -> bool {
        matches!(self, Self::Tcp | Self::Sniffed)
    }

    /// Whether `VirtualService.http` applies.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Sniffed)
    }
}

/// One port of a `ServiceEntry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// What clients dial.
    pub number: u16,
    /// Key of `endpoints[].ports`.
    pub name: String,
    /// What its protocol means.
    pub class: Class,
    /// `targetPort`, where it is set.
    pub target: Option<u16>,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A fixed address.
    Ip(IpAddr),
    /// A name to resolve, in canonical form.
    Name(Arc<str>),
}

/// One listed endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub location: Location,
    /// Its ports by the service port's name.
    pub ports: BTreeMap<String, u16>,
    /// For subsets.
    pub labels: BTreeMap<String, String>,
    /// Its share of the flows, relative to the others.
    pub weight: u32,
}

/// What one `ServiceEntry` says about each of its hosts.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The object that it was made from.
    pub object: Arc<Object>,
    /// How endpoints are found.
    pub resolution: Resolution,
    /// Further addresses that clients dial. They are never endpoints.
    pub addresses: Vec<IpNet>,
    /// Ports of the service.
    pub ports: Vec<Port>,
    /// Listed ports that serve nothing, because they would be open to any address although nobody wrote so: without
    /// `resolution` it is NONE, and there are no `addresses`.
    pub unspelt: Vec<Port>,
    /// Listed endpoints; `None` if there are none, so that the host itself is resolved.
    pub endpoints: Option<Vec<Endpoint>>,
    /// Namespaces that see it.
    pub export_to: Vec<String>,
}

/// One host and every entry that lists it, oldest first.
#[derive(Clone, Debug)]
pub struct Service {
    /// In canonical form; may be a wildcard.
    pub host: Arc<str>,
    /// Entries that are in force. All have one resolution.
    pub entries: Vec<Arc<Entry>>,
    /// Entries that are not in force, because they cannot be merged with the first.
    pub left_out: Vec<Arc<Entry>>,
    /// Addresses that the agent gave it and that clients dial, as if the entries had them as `addresses`.
    pub allocated: Vec<IpNet>,
}

impl Entry {
    /// From an object. Parts that cannot be read are left out, which denies; validation reported them. `selected` are
    /// the `WorkloadEntry`s that its selector chooses.
    pub fn new(
        object: Arc<Object>,
        entry: &ServiceEntry,
        selected: Option<&[WorkloadEntry]>,
    ) -> Self {
        let addresses: Vec<_> = entry.addresses.iter().filter_map(|a| network(a)).collect();
        let listed = entry.endpoints.iter().chain(selected.unwrap_or_default());
        let listed = listed.filter_map(endpoint).collect();
        let endpoints = (!entry.endpoints.is_empty() || selected.is_some()).then_some(listed);
        let ports = entry.ports.iter().filter_map(|p| {
            Some(Port {
                number: port_number(p.number)?,
                name: p.name.clone(),
                class: Class::parse(&p.protocol)?,
                target: if p.target_port == 0 {
                    None
                } else {
                    Some(port_number(p.target_port)?)
                },
            })
        });
        let opens = |p: &Port| entry.opens_by_default() && p.class.is_opaque();
        let (unspelt, mut ports): (Vec<_>, Vec<_>) = ports.partition(opens);
        // An entry whose addresses cannot be read must not cover every address.
        if addresses.is_empty() && !entry.addresses.is_empty() {
            ports.clear();
        }
        Self {
            object,
            resolution: entry.resolution(),
            addresses,
            ports,
            unspelt,
            endpoints,
            export_to: entry.export_to.clone(),
        }
    }

    /// The same entry with these ports only.
    #[must_use]
    pub fn with_ports_of(&self, ports: &BTreeSet<u16>) -> Self {
        let mut narrow = self.clone();
        narrow.ports.retain(|p| ports.contains(&p.number));
        narrow.unspelt.retain(|p| ports.contains(&p.number));
        narrow
    }

    /// Whether the agent may give its hosts addresses; see [`Service::may_have_allocated`].
    pub(super) fn may_have_allocated(&self) -> bool {
        let resolved = matches!(
            self.resolution,
            Resolution::Static | Resolution::Dns | Resolution::DnsRoundRobin
        );
        let labels = &self.object.meta.labels;
        let asks = |e: &ServiceEntry| e.addresses.is_empty() && e.is_auto_allocated(labels);
        resolved
            && self.entry().is_some_and(asks)
            && self.ports.iter().all(|port| port.class != Class::Udp)
    }

    /// The port of this number.
    pub fn port(&self, number: u16) -> Option<&Port> {
        self.ports.iter().find(|p| p.number == number)
    }

    /// Whether a younger entry for the same host joins this one (istio
    /// `pilot/pkg/model/sidecar.go`, `canMergeServices`).
    fn merges(&self, younger: &Self) -> bool {
        let exports = |e: &Self| {
            e.entry()
                .map(|s| (s.export_to.clone(), s.workload_selector.clone()))
        };
        self.object.meta.namespace == younger.object.meta.namespace
            && self.object.meta.labels == younger.object.meta.labels
            && self.resolution == younger.resolution
            && exports(self) == exports(younger)
    }

    /// The resource itself.
    pub fn entry(&self) -> Option<&ServiceEntry> {
        match &self.object.spec {
            Some(crate::istio::Spec::ServiceEntry(entry)) => Some(entry),
            _ => None,
        }
    }
}

fn port_number(n: u32) -> Option<u16> {
    u16::try_from(n).ok().filter(|n| *n != 0)
}

fn endpoint(entry: &WorkloadEntry) -> Option<Endpoint> {
    if entry.address.is_empty() || entry.address.starts_with("unix://") {
        return None;
    }
    let location = match entry.address.parse() {
        Ok(ip) => Location::Ip(ip),
        Err(_) => Location::Name(hosts::canonical(&entry.address)),
    };
    let port = |(name, number): (&String, &u32)| Some((name.clone(), port_number(*number)?));
    Some(Endpoint {
        location,
        ports: entry.ports.iter().filter_map(port).collect(),
        labels: entry.labels.clone(),
        // Unset is 1.
        weight: entry.weight.max(1),
    })
}

/// An address or CIDR; host bits are allowed and dropped.
pub fn network(text: &str) -> Option<IpNet> {
    let net = text.parse::<IpNet>().ok();
    net.or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
        .map(|n| n.trunc())
}

impl Service {
    /// Joins the entries for one host, given oldest first.
    pub fn new(host: Arc<str>, all: Vec<Arc<Entry>>) -> Self {
        let mut all = all.into_iter();
        let (mut entries, mut left_out) = (Vec::new(), Vec::new());
        if let Some(first) = all.next() {
            entries.push(Arc::clone(&first));
            let (merge, other) = all.partition(|e| first.merges(e));
            entries.extend::<Vec<_>>(merge);
            left_out = other;
        }
        Self {
            host,
            entries,
            left_out,
            allocated: Vec::new(),
        }
    }

    /// Ports whose bytes may have no name, of entries without `addresses`: nothing tells them from those of other hosts.
    pub(super) fn nameless_ports(&self) -> BTreeSet<u16> {
        let entries = self.entries.iter().filter(|e| e.addresses.is_empty());
        let ports = entries.flat_map(|e| &e.ports);
        let nameless = |p: &&Port| self.class(p.number).is_some_and(Class::may_be_nameless);
        ports.filter(nameless).map(|p| p.number).collect()
    }

    /// Whether the agent may give it addresses. Only the proxy leads from them to endpoints, and it has no UDP.
    pub(super) fn may_have_allocated(&self) -> bool {
        self.entries.iter().all(|e| e.may_have_allocated())
    }

    /// Whether both were made from the same entries, and have the same allocated addresses.
    pub(super) fn is_of_the_same(&self, other: &Self) -> bool {
        let all = |service: &Self| -> Vec<*const Entry> {
            let entries = service.entries.iter().chain(&service.left_out);
            entries.map(Arc::as_ptr).collect()
        };
        self.host == other.host && all(self) == all(other) && self.allocated == other.allocated
    }

    /// How its endpoints are found.
    pub fn resolution(&self) -> Resolution {
        self.entries
            .first()
            .map_or(Resolution::None, |e| e.resolution)
    }

    /// Its ports, each number once. If two entries list a number, the older entry's port counts.
    pub fn ports(&self) -> BTreeMap<u16, &Port> {
        let mut ports = BTreeMap::new();
        for port in self.entries.iter().flat_map(|e| &e.ports) {
            ports.entry(port.number).or_insert(port);
        }
        ports
    }

    /// Ports that are never led through the proxy: those of UDP, and those that serve learned addresses only.
    pub(super) fn unproxied_ports(&self) -> BTreeSet<u16> {
        let ports = self.ports();
        let unspelt = self.entries.iter().flat_map(|e| &e.unspelt);
        let unspelt = unspelt.map(|p| p.number).filter(|n| !ports.contains_key(n));
        let udp = ports.iter().filter(|(_, port)| port.class == Class::Udp);
        udp.map(|(number, _)| *number).chain(unspelt).collect()
    }

    /// The class of a port.
    pub fn class(&self, number: u16) -> Option<Class> {
        self.entries
            .iter()
            .find_map(|e| e.port(number))
            .map(|p| p.class)
    }

    /// Whether a port is listed for HTTP/2: `HTTP2` or one of gRPC's protocols.
    pub fn is_http2(&self, number: u16) -> bool {
        self.upstream_protocol(number) == UpstreamProtocol::Http2
    }

    /// The version of HTTP that the endpoints of a port get: that of its oldest entry.
    pub fn upstream_protocol(&self, number: u16) -> UpstreamProtocol {
        let entry = self.entries.iter().find(|e| e.port(number).is_some());
        let entry = entry.and_then(|e| e.entry());
        let mut ports = entry.into_iter().flat_map(|e| &e.ports);
        let own = ports.find(|p| p.number == u32::from(number));
        own.map_or_else(UpstreamProtocol::default, |p| {
            UpstreamProtocol::of_port(&p.protocol)
        })
    }

    /// Names whose addresses it needs.
    pub fn lookups(&self) -> impl Iterator<Item = &Arc<str>> {
        let resolved = matches!(
            self.resolution(),
            Resolution::Dns | Resolution::DnsRoundRobin
        );
        let entries = self.entries.iter().filter(move |_| resolved);
        entries.flat_map(|entry| {
            let own = entry.endpoints.is_none() && !hosts::is_wildcard(&self.host);
            let listed = entry
                .endpoints
                .iter()
                .flatten()
                .filter_map(|e| match &e.location {
                    Location::Name(name) => Some(name),
                    Location::Ip(_) => None,
                });
            own.then_some(&self.host).into_iter().chain(listed)
        })
    }
}
