//! HTTP/1.1 connections to endpoints, and the few idle ones that a client connection keeps.
//!
//! Connections are never shared between client connections, so no workload can use another
//! workload's connection.

use super::responses::{Reading, Responses};
use crate::proxy::client::Client;
use crate::proxy::places::Place;
use crate::proxy::ticket::OwnedTask;
use egress_core::routing::Cluster;
use hyper::body::Body;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::TcpStream;

/// Bytes that an upstream connection buffers either way, and so of a response head (Envoy takes 60 KiB).
const BUFFER: usize = 64 * 1024;
/// Blocks of memory that an idle connection takes.
const IDLE: usize = 6;
/// Blocks of memory that reads of up to [`BUFFER`] bytes take.
const WIDE: usize = 32;

/// An HTTP/1.1 connection to an endpoint. Dropping it closes the socket, whatever is under way.
pub(in crate::proxy) struct Upstream<B> {
    pub(in crate::proxy) address: SocketAddr,
    pub(in crate::proxy) service: Arc<Cluster>,
    pub(in crate::proxy) send: SendRequest<B>,
    reading: Arc<Reading>,
    /// For wide reads.
    wide: Option<Place>,
    _task: OwnedTask,
    _place: Place,
    /// That of one which is idle beside another: the request under way has room for one.
    room: Option<Place>,
}

impl<B> Upstream<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    pub(in crate::proxy) async fn new(
        stream: TcpStream,
        place: Place,
        address: SocketAddr,
        service: Arc<Cluster>,
    ) -> hyper::Result<Self> {
        let reading = Arc::default();
        let stream = Responses::new(stream, Arc::clone(&reading));
        let mut builder = Builder::new();
        builder.max_buf_size(BUFFER);
        builder.allow_obsolete_multiline_headers_in_responses(true);
        let (send, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(target: "egress::proxy", %error, "upstream connection ended");
            }
        });
        Ok(Self {
            address,
            service,
            send,
            reading,
            wide: None,
            _task: OwnedTask(task),
            _place: place,
            room: None,
        })
    }

    /// The next bytes that it sends are the head of a response.
    pub(in crate::proxy) fn expect_response(&self) {
        self.reading.expected.store(true, Ordering::Release);
    }

    /// Reads a long response in larger parts, if the workload has memory to spare.
    pub(in crate::proxy) fn widen(&mut self, client: &Client) {
        if self.wide.is_none() {
            self.wide = client.shared.memory.spare(client.share(), WIDE);
            let wide = self.wide.is_some();
            self.reading.wide.store(wide, Ordering::Relaxed);
        }
    }

    /// Whether the connection was made for this service at this address.
    fn fits(&self, service: &Cluster, address: SocketAddr) -> bool {
        self.address == address && self.service.id == service.id
    }
}

/// Idle upstream connections of one client connection.
pub(in crate::proxy) struct Pool<B>(Mutex<Vec<Upstream<B>>>);

impl<B> Default for Pool<B> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<B> Pool<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Takes a connection that is open and ready.
    pub(in crate::proxy) async fn take(
        &self,
        service: &Cluster,
        address: SocketAddr,
    ) -> Option<Upstream<B>> {
        loop {
            let mut upstream = {
                let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let at = idle
                    .iter()
                    .rposition(|upstream| upstream.fits(service, address))?;
                idle.remove(at)
            };
            if upstream.send.ready().await.is_ok() {
                return Some(upstream);
            }
        }
    }

    /// Keeps a connection whose exchange is over; the oldest goes where there are too many.
    /// One beside others is kept only where the workload has memory to spare.
    pub(in crate::proxy) fn put(&self, client: &Client, mut upstream: Upstream<B>) {
        if upstream.send.is_closed() {
            return;
        }
        let (memory, most) = (&client.shared.memory, client.shared.limits.idle_upstreams);
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !idle.is_empty() && upstream.room.is_none() {
            upstream.room = memory.spare(client.share(), IDLE);
            if upstream.room.is_none() {
                return;
            }
        }
        idle.push(upstream);
        if idle.len() > most {
            idle.remove(0);
        }
    }
}
