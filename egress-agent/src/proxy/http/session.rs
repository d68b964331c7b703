//! The state that the requests of one client connection share.
//!
//! It serves nothing itself.

use super::control::Control;
use super::request_body::RequestBody;
use crate::proxy::client::Client;
use crate::proxy::observe::Protocol;
use crate::proxy::ticket::{OwnedTask, Ticket};
use crate::proxy::upstream::pool::Pool;
use std::sync::{Arc, Mutex, PoisonError};

/// The shared state of one client connection.
pub(super) struct Session {
    pub(super) client: Client,
    protocol: Protocol,
    pub(super) control: Arc<Control>,
    pub(super) pool: Arc<Pool<RequestBody>>,
    /// The websocket that the connection has become.
    tunnel: Mutex<Option<OwnedTask>>,
}

impl Session {
    pub(super) fn new(client: Client, protocol: Protocol) -> Self {
        Self {
            client,
            protocol,
            control: Arc::default(),
            pool: Arc::default(),
            tunnel: Mutex::default(),
        }
    }

    /// The version of HTTP that the client speaks, as Envoy names it.
    pub(super) fn version(&self) -> &'static str {
        match self.protocol {
            Protocol::Http2 => "HTTP/2",
            Protocol::Http | Protocol::Tls | Protocol::Tcp => "HTTP/1.1",
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
