//! What the proxy reports about flows: each denial and each finished request or connection.
//!
//! It decides nothing. A slow observer would delay the flow that it observes.

use super::origin::Origin;
use egress_core::http::response_flags::ResponseFlags;
use std::net::SocketAddr;
use std::time::Duration;

pub use egress_core::routing::DenialReason;

/// A flow or request that no rule allows.
#[derive(Clone, Debug)]
pub struct Denial {
    /// The client's address.
    pub peer: SocketAddr,
    /// The name that the client asked for, if one was read.
    pub name: Option<String>,
    /// Why.
    pub reason: DenialReason,
    /// It was allowed, because its policy audits.
    pub audit: bool,
}

/// How a flow was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One HTTP/1.1 request.
    Http,
    /// One HTTP/2 request.
    Http2,
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
    /// Status that the client got; 0 for TLS, and if the client left before.
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

/// How the copy of a request for a mirror ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyEnd {
    /// The mirror answered.
    Answered,
    /// The mirror cannot be reached or gave no whole response, or the request ended within its body.
    Failed,
    /// The rules do not let it leave.
    Denied,
    /// The workload has no memory or socket to spare, or the mirror was too slow for the body.
    NoRoom,
}

/// Gets each denial and each finished request or connection.
pub trait Observer: Send + Sync {
    /// No rule allows a flow or request. `origin` is `None` if the kernel knows none.
    fn denied(&self, origin: Option<&Origin>, denial: &Denial);
    /// A request (also a denied one) or a TLS connection is over.
    fn finished(&self, origin: &Origin, record: &AccessRecord);
    /// A copy of a request for a mirror is over.
    fn copied(&self, _origin: &Origin, _end: CopyEnd) {}
}
