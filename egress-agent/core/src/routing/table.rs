//! The data of the snapshot. Plain values: a test writes one down as a literal.

use super::index::PortIndex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Everything the proxy may do, by policy id.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// Raised with every snapshot, for logs and `status`.
    pub generation: u64,
    /// Routes of each policy; a policy id that is not here may do nothing.
    pub policies: BTreeMap<u32, Arc<PolicyRoutes>>,
}

/// What one policy's workloads may reach through the proxy, by dialled port.
#[derive(Clone, Debug, Default)]
pub struct PolicyRoutes {
    /// Routes of each dialled port.
    pub ports: BTreeMap<u16, PortRoutes>,
}

/// How the first bytes of a flow on a port are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PortKind {
    /// Only HTTP is listed here: bytes that are not HTTP are closed.
    #[default]
    Http,
    /// Only TLS is listed here: bytes that are no `ClientHello` are closed.
    Tls,
    /// Both, or an unset protocol: look at the first bytes.
    Sniff,
}

/// The routes of one dialled port.
#[derive(Clone, Debug, Default)]
pub struct PortRoutes {
    /// How to read the flow.
    pub kind: PortKind,
    /// HTTP. The most specific host wins; of one host listed twice, the first.
    pub hosts: Vec<VirtualHost>,
    /// TLS: `VirtualService` tls routes, then the services' own names. The most specific name wins; of
    /// one name listed twice, the first.
    pub tls: Vec<TlsRoute>,
    /// Leave it `Default`: made from `hosts` and `tls` when the port is first asked.
    pub index: PortIndex,
}

/// The HTTP routes of one host on one port.
#[derive(Clone, Debug)]
pub struct VirtualHost {
    /// Lower-case host or wildcard (`*.example.com`) as the `ServiceEntry` lists it.
    pub host: String,
    /// In order; the first that matches wins; none that matches is 404 (flag NR).
    pub routes: Vec<HttpRoute>,
}

/// One HTTP route.
#[derive(Clone, Debug)]
pub struct HttpRoute {
    /// Where it goes.
    pub cluster: Arc<Cluster>,
    /// `VirtualService.http[].timeout`: from the end of the request to the end of the response.
    pub timeout: Option<Duration>,
}

/// One TLS route.
#[derive(Clone, Debug)]
pub struct TlsRoute {
    /// Lower-case names or wildcards.
    pub sni_hosts: Vec<String>,
    /// Where it goes.
    pub cluster: Arc<Cluster>,
}

/// A destination: one service on one port and the addresses it has at the moment.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// The service's host as registered; `httpbin.org`.
    pub host: String,
    /// The service's port (not the endpoint's): part of `x-envoy-decorator-operation`.
    pub port: u16,
    /// Addresses to dial, sorted. Empty is 503 `no healthy upstream`.
    pub endpoints: Vec<SocketAddr>,
    /// Resolution NONE: dial what the client dialled (on this port, where `targetPort` is set).
    pub original_dst: Option<u16>,
}
