//! The state that the requests of one client connection share.
//!
//! It serves nothing itself.

use super::control::Control;
use super::request_body::RequestBody;
use crate::proxy::client::Client;
use crate::proxy::observe::Protocol;
use crate::proxy::ticket::{OwnedTask, Ticket};
use crate::proxy::upstream::http2::Streams;
use crate::proxy::upstream::pool::Pool;
use egress_core::routing::Cluster;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// The shared state of one client connection.
pub(super) struct Session {
    pub(super) client: Client,
    protocol: Protocol,
    pub(super) control: Arc<Control>,
    pub(super) pool: Arc<Pool<RequestBody>>,
    /// HTTP/2 upstream. Most connections never have any.
    streams: OnceLock<Arc<Streams>>,
    /// The same for copies of requests: no mirror slows the streams of requests.
    copies: OnceLock<Arc<Streams>>,
    /// Closes the pool with the client connection.
    _closes: Option<Closes>,
    /// The websocket that the connection has become.
    tunnel: Mutex<Option<OwnedTask>>,
}

/// Closes idle upstream connections when it is dropped, although copies of requests may still use the pool.
struct Closes(Arc<Pool<RequestBody>>);

impl Drop for Closes {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Session {
    pub(super) fn new(client: Client, protocol: Protocol) -> Self {
        let pool = Arc::default();
        Self {
            client,
            protocol,
            control: Arc::default(),
            _closes: Some(Closes(Arc::clone(&pool))),
            pool,
            streams: OnceLock::new(),
            copies: OnceLock::new(),
            tunnel: Mutex::default(),
        }
    }

    /// For the copy of a request: the same client and connections, and nothing else of the client's connection.
    pub(super) fn of_copy(&self) -> Self {
        let copies = self.copies.get_or_init(|| self.new_streams());
        Self {
            client: self.client.clone(),
            protocol: self.protocol,
            control: Arc::default(),
            pool: Arc::clone(&self.pool),
            streams: OnceLock::from(Arc::clone(copies)),
            copies: OnceLock::new(),
            _closes: None,
            tunnel: Mutex::default(),
        }
    }

    fn new_streams(&self) -> Arc<Streams> {
        Arc::new(Streams::new(self.client.shared.limits.idle_upstreams))
    }

    /// HTTP/2 upstream.
    pub(super) fn streams(&self) -> &Streams {
        self.streams.get_or_init(|| self.new_streams())
    }

    /// The version of HTTP that the client speaks, as Envoy names it.
    pub(super) fn version(&self) -> &'static str {
        match self.protocol {
            Protocol::Http2 => "HTTP/2",
            Protocol::Http | Protocol::Tls | Protocol::Tcp => "HTTP/1.1",
        }
    }

    /// Whether a cluster gets HTTP/2.
    pub(super) fn is_http2(&self, cluster: &Cluster) -> bool {
        cluster.protocol.is_http2(self.protocol == Protocol::Http2)
    }

    /// Gives up what idle upstream connections have in buffers.
    pub(super) async fn rest(&self) {
        self.pool.rest().await;
        let both = [&self.streams, &self.copies];
        for streams in both.into_iter().filter_map(OnceLock::get) {
            streams.rest(&self.client);
        }
    }

    /// A record for the next request.
    pub(super) fn ticket(&self) -> Ticket {
        Ticket::new(self.client.clone(), self.protocol, Arc::default())
    }

    /// Turns the connection into a websocket. `copying` serves it, and ends with the connection.
    pub(super) fn tunnel(&self, copying: OwnedTask) {
        *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(copying);
    }

    /// Waits for the end of the websocket, if the connection became one.
    pub(super) async fn tunnelled(&self) {
        let tunnel = self
            .tunnel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut tunnel) = tunnel
            && let Err(error) = (&mut tunnel.0).await
        {
            tracing::error!(target: "egress::proxy", %error, "a websocket ended badly");
        }
    }
}
