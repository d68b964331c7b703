//! Why the proxy denies a flow or a request. The log has the code and the text, `explain` the text.
//!
//! It decides nothing and writes no log line.

use crate::http::authority::HostError;
use crate::tls::client_hello::HelloError;
use crate::tls::second_hello::SecondHelloError;
use ipnet::IpNet;
use std::sync::Arc;
use thiserror::Error;

/// Why a flow or request was not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DenialReason {
    /// The kernel did not redirect this connection: the client dialled the proxy itself.
    #[error("no original destination: not a redirected connection")]
    NoOrigin,
    /// The kernel no longer has an entry for the ancestors of the socket's cgroup.
    #[error(
        "the kernel does not know the ancestors of the socket's cgroup; the next socket that is made \
         in the cgroup brings them back"
    )]
    UnknownOwner,
    /// All connections that the limits allow are taken.
    #[error("the workload's share of the proxy's connections is taken, or all of them are")]
    ConnectionLimit,
    /// Requests under way and unfinished heads take all the memory that the limits allow.
    #[error("the workload's share of the proxy's memory is taken, or all of it is")]
    MemoryLimit,
    /// Nothing on this port goes through the proxy under this policy.
    #[error("nothing is listed on this port")]
    UnlistedPort,
    /// The Host header is not listed on this port.
    #[error("the Host is not listed on this port")]
    UnlistedHost,
    /// The workload's present policy does not list the destination of a running connection: a rule was removed, or the
    /// workload got another policy.
    #[error("the workload's rules do not list it any more")]
    Removed,
    /// The Host header cannot be read.
    #[error("bad Host: {0}")]
    BadHost(HostError),
    /// No Host, or a target of another scheme.
    #[error("the request names no HTTP host")]
    AmbiguousHost,
    /// The host is listed, but none of its routes matches.
    #[error("no route of the host matches")]
    NoRoute,
    /// The route leads to a service, port or subset that no rule lists.
    #[error("the route leads to {0}, which is not registered")]
    NoCluster(String),
    /// The mirror of a route gets no copy of the request, which continues without it.
    #[error("the mirror of the route gets no copy: {0}")]
    Mirror(Box<Self>),
    /// The rule has a field that narrows or protects and is not carried out. The text names the field and the object.
    #[error("{0}")]
    NotCarriedOut(Arc<str>),
    /// The files of a `DestinationRule`'s TLS settings cannot be used, or its server name is none.
    #[error("TLS to the destination cannot be set up: {0}")]
    ClientTls(Arc<str>),
    /// The service has no endpoint: none is listed, no `WorkloadEntry` has the labels of its
    /// selector, no name of it has an address yet, or outlier detection leaves all of them alone.
    #[error(
        "{0} has no endpoint: it lists none, its workloadSelector selects none, its name has no \
         address yet, or outlierDetection leaves all of them alone"
    )]
    NoEndpoint(String),
    /// `DYNAMIC_DNS`: the name that the client asked for has no address that may be dialled.
    #[error("{0} cannot be resolved: {1}")]
    Unresolved(String, Arc<str>),
    /// A limit of `trafficPolicy.connectionPool` is reached.
    #[error("the connectionPool of a DestinationRule for {0} allows no more at the moment")]
    ConnectionPool(String),
    /// CONNECT.
    #[error("CONNECT")]
    Connect,
    /// An upgrade other than websocket.
    #[error("an upgrade that is not passed through")]
    UpgradeDenied,
    /// HTTP/1.0.
    #[error("HTTP/1.0")]
    Http10,
    /// Bytes that break HTTP/1.1.
    #[error("malformed HTTP: {0}")]
    MalformedHttp(String),
    /// TLS on a port that is listed as HTTP only, or HTTP on one that is TLS only.
    #[error("the protocol of the flow is not that of the port")]
    WrongProtocol,
    /// Neither HTTP nor TLS.
    #[error("neither HTTP nor TLS")]
    UnknownProtocol,
    /// The first bytes did not come in time.
    #[error("no name within the time limit")]
    NameTimeout,
    /// The client left before its name was known.
    #[error("closed before the name was known")]
    EndedEarly,
    /// The `ClientHello` may not pass.
    #[error("bad ClientHello: {0}")]
    BadHello(HelloError),
    /// The second `ClientHello` names another server than the first, or cannot be read.
    #[error("{0}")]
    SecondHello(SecondHelloError),
    /// The server name is not listed on this port.
    #[error("the server name is not listed on this port")]
    UnlistedName,
    /// The hello names no server.
    #[error("the ClientHello has no server name")]
    NoServerName,
    /// The hello names no server, and its address is listed as part of a network.
    #[error(
        "the ClientHello has no server name, which {0} in spec.addresses needs: list the single \
         address, or the port with protocol TCP"
    )]
    NoServerNameInNetwork(IpNet),
}

impl DenialReason {
    /// The same for the copy of a request.
    #[must_use]
    pub fn of_mirror(self) -> Self {
        Self::Mirror(Box::new(self))
    }

    /// Its code in the log, in kebab-case like the kernel's reasons.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoOrigin => "no-origin",
            Self::UnknownOwner => "unknown-owner",
            Self::ConnectionLimit => "connection-limit",
            Self::MemoryLimit => "memory-limit",
            Self::UnlistedPort => "port-not-listed",
            Self::UnlistedHost => "host-not-listed",
            Self::Removed => "rule-removed",
            Self::BadHost(_) => "bad-host",
            Self::AmbiguousHost => "no-host",
            Self::NoRoute => "no-route",
            Self::NoCluster(_) => "no-cluster",
            Self::Mirror(_) => "mirror",
            Self::NotCarriedOut(_) => "not-carried-out",
            Self::ClientTls(_) => "client-tls",
            Self::NoEndpoint(_) => "no-endpoint",
            Self::Unresolved(..) => "unresolved",
            Self::ConnectionPool(_) => "connection-pool",
            Self::Connect => "connect-method",
            Self::UpgradeDenied => "upgrade",
            Self::Http10 => "http-1.0",
            Self::MalformedHttp(_) => "malformed-http",
            Self::WrongProtocol => "wrong-protocol",
            Self::UnknownProtocol => "unknown-protocol",
            Self::NameTimeout => "name-timeout",
            Self::EndedEarly => "ended-early",
            Self::BadHello(_) => "bad-client-hello",
            Self::SecondHello(_) => "second-client-hello",
            Self::UnlistedName => "server-name-not-listed",
            Self::NoServerName => "no-server-name",
            Self::NoServerNameInNetwork(_) => "no-server-name-in-network",
        }
    }
}
