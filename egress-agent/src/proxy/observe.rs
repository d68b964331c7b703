//! What the proxy reports about flows: each denial and each finished request or connection.
//!
//! It decides nothing. A slow observer would delay the flow that it observes.

use super::origin::Origin;
use egress_core::access_log::{AccessFormat, AskedFor, Entry};
use egress_core::http::response_flags::ResponseFlags;
use egress_core::traffic::{ClusterId, RouteName};
use hyper::http::{HeaderMap, HeaderName};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

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
    /// The destination that it went to, or would have.
    pub cluster: Option<ClusterId>,
    /// The route that it took.
    pub route: Option<RouteName>,
    /// The address that was dialled last.
    pub upstream: Option<SocketAddr>,
    /// The proxy's address towards it, if the access log is on.
    pub upstream_local: Option<SocketAddr>,
    /// Tries to reach an upstream.
    pub attempts: u32,
    /// Status that the client got; 0 for TLS, and if the client left before.
    pub response_code: u16,
    /// Envoy's response flags.
    pub flags: ResponseFlags,
    /// Envoy's response code details, or empty.
    pub details: Cow<'static, str>,
    /// Why no connection to the upstream was made.
    pub transport_failure: Option<Cow<'static, str>>,
    /// Body bytes (TLS: all bytes) from the client.
    pub bytes_received: u64,
    /// Body bytes (TLS: all bytes) to the client.
    pub bytes_sent: u64,
    /// From the head of the request (TLS: from the accept) to the end.
    pub duration: Duration,
    /// From the end of the request to the upstream's response headers.
    pub upstream_service_time: Option<Duration>,
    /// What only the access log needs. `None` for TCP and TLS, and while it is off.
    pub heads: Option<Box<Heads>>,
}

/// The parts of both heads of an exchange that the access log shows.
#[derive(Clone, Debug)]
pub struct Heads {
    /// How the line is written.
    format: Arc<AccessFormat>,
    request: HeaderMap,
    response: HeaderMap,
    /// Host and target as they were sent upstream.
    sent: Option<(String, String)>,
}

impl Heads {
    pub(super) fn new(format: Arc<AccessFormat>) -> Self {
        Self {
            format,
            request: HeaderMap::new(),
            response: HeaderMap::new(),
            sent: None,
        }
    }

    pub(super) fn request(&mut self, headers: &HeaderMap) {
        self.request = copied(self.format.request_headers(), headers);
    }

    pub(super) fn sent(&mut self, authority: &str, target: &str) {
        self.sent = Some((authority.to_owned(), target.to_owned()));
    }

    pub(super) fn response(&mut self, headers: &HeaderMap) {
        self.response = copied(self.format.response_headers(), headers);
    }
}

/// Of a header with several values, the first.
fn copied(names: &[HeaderName], headers: &HeaderMap) -> HeaderMap {
    let of = |name: &HeaderName| Some((name.clone(), headers.get(name)?.clone()));
    names.iter().filter_map(of).collect()
}

impl AccessRecord {
    /// What a line of the access log tells. `now` is when the flow ended.
    pub fn entry(&self, origin: &Origin, now: SystemTime) -> Entry<'_> {
        static NONE: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
        let heads = self.heads.as_deref();
        let http = match self.protocol {
            Protocol::Http => Some("HTTP/1.1"),
            Protocol::Http2 => Some("HTTP/2"),
            Protocol::Tls | Protocol::Tcp => None,
        };
        let (authority, target) = heads
            .and_then(|heads| heads.sent.as_ref())
            .map_or((&self.host, &self.path), |(authority, target)| {
                (authority, target)
            });
        let is_tls = self.protocol == Protocol::Tls;
        Entry {
            started: now.checked_sub(self.duration).unwrap_or(now),
            duration: self.duration,
            request: http.map(|protocol| AskedFor {
                method: &self.method,
                authority,
                target,
                protocol,
            }),
            request_headers: heads.map_or(&NONE, |heads| &heads.request),
            response_headers: heads.map_or(&NONE, |heads| &heads.response),
            response_code: self.response_code,
            flags: self.flags,
            details: Some(&*self.details),
            transport_failure: self.transport_failure.as_deref(),
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
            attempts: self.attempts,
            cluster: self.cluster.as_ref(),
            upstream: self.upstream,
            upstream_local: self.upstream_local,
            dialled: origin.destination,
            peer: self.peer,
            server_name: is_tls.then_some(&*self.host),
            route_name: self.route.as_ref().map(RouteName::as_str),
        }
    }
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
    /// The format of the access log, while it is on. Asked for at the start of each request.
    fn access_format(&self) -> Option<Arc<AccessFormat>> {
        None
    }
}
