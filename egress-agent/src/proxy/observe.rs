//! What the proxy tells about flows: each refusal and each finished request or connection.
//!
//! It decides nothing; a slow observer slows the flow it watches, so observers only hand on.

use super::Origin;
use egress_core::http::authority::HostError;
use egress_core::http::local_reply::ResponseFlags;
use egress_core::tls::client_hello::HelloError;
use std::net::SocketAddr;
use std::time::Duration;
use thiserror::Error;

/// A flow or request that no rule lets through.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The client's address.
    pub peer: SocketAddr,
    /// The name that was asked for, where one was read.
    pub name: Option<String>,
    /// Why.
    pub reason: RefusalReason,
    /// It was let through all the same: its policy audits.
    pub audit: bool,
}

/// Why a flow or request was not let through.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RefusalReason {
    /// The kernel did not redirect this connection: somebody dialled the proxy itself.
    #[error("no original destination: not a redirected connection")]
    NoOrigin,
    /// All connections that the limits allow are taken.
    #[error("connection limit reached")]
    ConnectionLimit,
    /// Nothing on this port goes through the proxy under this policy.
    #[error("nothing is listed on this port")]
    UnlistedPort,
    /// The Host header is not listed on this port.
    #[error("the Host is not listed on this port")]
    UnlistedHost,
    /// The rule that listed the host of a running connection was removed.
    #[error("the rule that listed it was removed")]
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
    /// CONNECT.
    #[error("CONNECT")]
    Connect,
    /// An upgrade other than websocket.
    #[error("an upgrade that is not passed through")]
    UpgradeRefused,
    /// HTTP/1.0.
    #[error("HTTP/1.0")]
    Http10,
    /// HTTP/2 without TLS.
    #[error("HTTP/2 with prior knowledge")]
    Http2,
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
    /// No `ClientHello` that may pass.
    #[error("bad ClientHello: {0}")]
    BadHello(HelloError),
    /// The server name is not listed on this port.
    #[error("the server name is not listed on this port")]
    UnlistedName,
    /// The hello names no server.
    #[error("the ClientHello has no server name")]
    NoServerName,
}

/// How a flow was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One HTTP/1.1 request.
    Http,
    /// One TLS connection, passed through.
    Tls,
    /// One connection whose bytes were not read.
    Tcp,
}

/// One finished request or TLS connection, as Envoy's access log has it.
#[derive(Clone, Debug)]
pub struct AccessRecord {
    /// How the flow was read.
    pub protocol: Protocol,
    /// The client's address.
    pub peer: SocketAddr,
    /// Host header as sent, or server name.
    pub host: String,
    /// Method; empty for TLS.
    pub method: String,
    /// Path and query; empty for TLS.
    pub path: String,
    /// The service that it went to, as registered.
    pub service: Option<String>,
    /// The address that was dialled last.
    pub upstream: Option<SocketAddr>,
    /// Tries to reach an upstream.
    pub attempts: u32,
    /// Status that the client got; 0 for TLS, and where the client left before.
    pub response_code: u16,
    /// Envoy's response flags.
    pub flags: ResponseFlags,
    /// Body bytes (TLS: all bytes) from the client.
    pub bytes_received: u64,
    /// Body bytes (TLS: all bytes) to the client.
    pub bytes_sent: u64,
    /// From the head of the request (TLS: from the accept) to the end.
    pub duration: Duration,
    /// From the end of the request to the upstream's response headers.
    pub upstream_service_time: Option<Duration>,
}

/// Gets each refusal and each finished request or connection.
pub trait Observer: Send + Sync {
    /// No rule lets a flow or request through. There is no origin where the kernel knows none.
    fn refused(&self, origin: Option<&Origin>, refusal: &Refusal);
    /// A request (refused ones too) or a TLS connection is over.
    fn finished(&self, origin: &Origin, record: &AccessRecord);
}
