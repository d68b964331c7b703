//! The single record of a finished request or connection, and its byte counts.
//!
//! The receiver decides what to do with it.

use super::client::Client;
use super::observe::{AccessRecord, Heads, Protocol};
use egress_core::http::local_reply::LocalReply;
use egress_core::http::response_flags::{ResponseFlag, ResponseFlags};
use hyper::http::HeaderMap;
use hyper::http::request::Parts;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Bytes of one request or connection.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
}

impl Counters {
    /// Bytes of both ways.
    pub(super) fn total(&self) -> u64 {
        let received = self.received.load(Ordering::Relaxed);
        received.wrapping_add(self.sent.load(Ordering::Relaxed))
    }

    /// Counts bytes to the client, or those of a response that is dropped.
    pub(super) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Waits until no byte went either way for `limit`, at most twice as long.
    pub(super) async fn silence(&self, limit: Duration) {
        let mut before = self.total();
        loop {
            sleep(limit).await;
            let now = self.total();
            if now == before {
                return;
            }
            before = now;
        }
    }
}

/// The record of one request or connection. Dropping it passes it to the observer, so each flow is recorded once,
/// however it ends.
pub(super) struct Ticket {
    client: Client,
    started: Instant,
    pub(super) counters: Arc<Counters>,
    pub(super) record: AccessRecord,
    /// The client speaks gRPC, so the proxy's own replies are in its form.
    pub(super) grpc: bool,
    done: bool,
    /// The observer gets no record.
    unrecorded: bool,
}

impl Ticket {
    pub(super) fn new(client: Client, protocol: Protocol, counters: Arc<Counters>) -> Self {
        let record = AccessRecord {
            protocol,
            peer: client.peer,
            host: String::new(),
            method: String::new(),
            path: String::new(),
            cluster: None,
            route: None,
            upstream: None,
            upstream_local: None,
            attempts: 0,
            response_code: 0,
            flags: ResponseFlags::default(),
            details: Cow::Borrowed(""),
            transport_failure: None,
            bytes_received: 0,
            bytes_sent: 0,
            duration: Duration::ZERO,
            upstream_service_time: None,
            heads: None,
        };
        Self {
            client,
            started: Instant::now(),
            counters,
            record,
            grpc: false,
            done: false,
            unrecorded: false,
        }
    }

    /// The same without a record, for the copy of a request.
    pub(super) fn unrecorded(mut self) -> Self {
        self.unrecorded = true;
        self
    }

    /// Notes a request's headers, in the form that routes see, if the access log is on.
    pub(super) fn asked(&mut self, headers: &HeaderMap) {
        let Some(format) = self.client.shared.observer.access_format() else {
            return;
        };
        let mut heads = Heads::new(format);
        heads.request(headers);
        self.record.heads = Some(Box::new(heads));
    }

    /// Notes the head as it goes upstream.
    pub(super) fn sends(&mut self, parts: &Parts, authority: &str) {
        if let Some(heads) = &mut self.record.heads {
            heads.request(&parts.headers);
            let target = parts.uri.path_and_query();
            heads.sent(authority, target.map_or("/", |target| target.as_str()));
        }
    }

    /// The upstream has answered, so long after the end of the request.
    pub(super) fn answered(&mut self, status: u16, waited: Option<Duration>) {
        self.record.response_code = status;
        self.record.upstream_service_time = waited;
        self.record.details = "via_upstream".into();
    }

    /// Notes the headers that the client gets.
    pub(super) fn answers(&mut self, headers: &HeaderMap) {
        if let Some(heads) = &mut self.record.heads {
            heads.response(headers);
        }
    }

    /// Notes a reply that is sent below the HTTP library.
    pub(super) fn replied(&mut self, reply: &LocalReply) {
        self.record.response_code = reply.status;
        self.record.flags = self.record.flags.and(reply.flags);
        self.record.details.clone_from(&reply.details);
        let sent = reply.body.len() as u64;
        self.counters.sent.store(sent, Ordering::Relaxed);
        self.done();
    }

    /// The owner of the flow.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The flow has ended normally; without this the record says that the client left (DC).
    pub(super) fn done(&mut self) {
        self.done = true;
    }

    pub(super) fn flag(&mut self, flag: ResponseFlag) {
        self.record.flags = self.record.flags.with(flag);
        self.done = true;
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.unrecorded {
            return;
        }
        if !self.done {
            self.record.flags = self.record.flags.with(ResponseFlag::DC);
            if matches!(self.record.protocol, Protocol::Http | Protocol::Http2) {
                self.record.details = "downstream_remote_disconnect".into();
            }
        }
        self.record.bytes_received = self.counters.received.load(Ordering::Relaxed);
        self.record.bytes_sent = self.counters.sent.load(Ordering::Relaxed);
        self.record.duration = self.started.elapsed();
        self.client
            .shared
            .observer
            .finished(&self.client.origin, &self.record);
    }
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(super) struct OwnedTask(pub(super) JoinHandle<()>);

impl Drop for OwnedTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}
