//! What a line of the access log tells of one request or connection.

use crate::http::response_flags::ResponseFlags;
use crate::traffic::ClusterId;
use http::HeaderMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

/// The head of an HTTP request.
#[derive(Clone, Copy, Debug)]
pub struct AskedFor<'a> {
    /// The method.
    pub method: &'a str,
    /// The authority, as it was sent upstream.
    pub authority: &'a str,
    /// Path and query, as they were sent upstream.
    pub target: &'a str,
    /// `HTTP/1.1` or `HTTP/2`.
    pub protocol: &'static str,
}

/// A finished request or connection. `None` stands for what it does not have.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// When it began.
    pub started: SystemTime,
    /// From its begin to its end.
    pub duration: Duration,
    /// `None` for TCP and TLS.
    pub request: Option<AskedFor<'a>>,
    /// The headers of the request.
    pub request_headers: &'a HeaderMap,
    /// The headers of the response.
    pub response_headers: &'a HeaderMap,
    /// 0 without a response.
    pub response_code: u16,
    /// Envoy's response flags.
    pub flags: ResponseFlags,
    /// Envoy's words for what decided the response.
    pub details: Option<&'a str>,
    /// Why no connection to the upstream was made.
    pub transport_failure: Option<&'a str>,
    /// From the client.
    pub bytes_received: u64,
    /// To the client.
    pub bytes_sent: u64,
    /// Tries to reach an upstream.
    pub attempts: u32,
    /// The destination.
    pub cluster: Option<&'a ClusterId>,
    /// The upstream's address.
    pub upstream: Option<SocketAddr>,
    /// The proxy's address towards the upstream.
    pub upstream_local: Option<SocketAddr>,
    /// The address that the client dialled.
    pub dialled: SocketAddr,
    /// The client's address.
    pub peer: SocketAddr,
    /// The server name (SNI).
    pub server_name: Option<&'a str>,
    /// The name of the route.
    pub route_name: Option<&'a str>,
}
