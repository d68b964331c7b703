//! HTTP/2 connections to endpoints. The requests of one client connection share them: each is a stream.
//!
//! They are never shared between client connections, so no workload can use another workload's connection.

mod connection;
mod duplex;
mod lease;
mod open;

use super::connect::Connected;
use super::held::Held;
use super::stream::Stream;
use super::tls::Peer;
use crate::lock::lock;
use crate::proxy::client::Client;
use crate::proxy::frame_watch::FrameWatch;
use crate::proxy::http2_memory::{CONNECTION, SEND_BUFFER, WINDOW, wide};
use crate::proxy::observe::DenialReason;
use crate::proxy::watched::Watched;
use bytes::Bytes;
use connection::{Connection, Room};
pub(in crate::proxy) use duplex::Duplex;
use egress_core::http::MAX_HEAD;
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::routing::Cluster;
use egress_core::traffic::ConnectionPool;
use h2::client::{Builder, SendRequest};
pub(in crate::proxy) use lease::Lease;
use open::{Endpoint, State};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The window of a connection if its workload has memory to spare: over a long way, the window limits the speed.
const WIDE_WINDOW: u32 = 1024 * 1024;

/// How often a request waits for a connection that another one makes, before it makes its own.
const WAITS: usize = 3;

/// The HTTP/2 connections of one client connection.
pub(in crate::proxy) struct Streams {
    state: Arc<Mutex<State>>,
    /// Notified when a stream is over.
    freed: Arc<Notify>,
}

/// The right to make a connection. Other requests for the same endpoint wait until it is dropped.
pub(in crate::proxy) struct Making<'a> {
    of: &'a Streams,
    to: Endpoint,
    done: Arc<Notify>,
}

impl Streams {
    /// With at most so many idle connections.
    pub(in crate::proxy) fn new(most_idle: usize) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(most_idle))),
            freed: Arc::default(),
        }
    }

    /// A stream of an open connection. Closes idle ones to former addresses of the service.
    pub(in crate::proxy) fn lease(
        &self,
        service: &Cluster,
        address: SocketAddr,
        peer: Option<&Peer>,
    ) -> Option<Lease> {
        let to = Endpoint::new(service, address, peer);
        self.lease_of(&mut self.state(), service, &to)
    }

    fn lease_of(&self, state: &mut State, service: &Cluster, to: &Endpoint) -> Option<Lease> {
        state.leave(service, to);
        let mut fitting = state
            .open
            .iter()
            .filter(|(leads, _)| leads.serves(service, to));
        fitting.find_map(|(leads, open)| Lease::of(open, leads.address, &self.state))
    }

    /// Waits until a stream of any connection is over, from this call on.
    pub(in crate::proxy) fn freed(&self) -> Pin<Box<OwnedNotified>> {
        let mut freed = Box::pin(Arc::clone(&self.freed).notified_owned());
        freed.as_mut().enable();
        freed
    }

    /// A stream of an open connection, or the right to make one.
    pub(in crate::proxy) async fn take(
        &self,
        service: &Cluster,
        address: SocketAddr,
        peer: Option<&Peer>,
    ) -> Result<Lease, Making<'_>> {
        let to = Endpoint::new(service, address, peer);
        let mut waits = 0;
        loop {
            let freed = self.freed();
            let made = {
                let mut state = self.state();
                if let Some(lease) = self.lease_of(&mut state, service, &to) {
                    return Ok(lease);
                }
                let made = state.making.iter().find(|(key, _)| *key == to);
                let Some((_, notify)) = made.filter(|_| waits < WAITS) else {
                    return Err(self.make(&mut state, to));
                };
                Arc::clone(notify).notified_owned()
            };
            tokio::select! {
                () = made => waits += 1,
                () = freed => {}
            }
        }
    }

    /// The right to make a connection, whatever is open.
    pub(in crate::proxy) fn replace(
        &self,
        service: &Cluster,
        address: SocketAddr,
        peer: Option<&Peer>,
    ) -> Making<'_> {
        self.make(&mut self.state(), Endpoint::new(service, address, peer))
    }

    fn make(&self, state: &mut State, to: Endpoint) -> Making<'_> {
        let done = Arc::<Notify>::default();
        state.making.push((to.clone(), Arc::clone(&done)));
        Making { of: self, to, done }
    }

    /// Closes connections without streams if the workload has no memory to spare for them.
    pub(in crate::proxy) fn rest(&self, client: &Client) {
        let memory = &client.shared.memory;
        if memory.spare(client.share(), 0).is_none() {
            self.state().open.retain(|(_, open)| open.is_used());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Making<'_> {
    /// Opens HTTP/2 on a new connection.
    pub(in crate::proxy) async fn open(
        self,
        client: &Client,
        connected: Connected,
        held: Held,
        pool: &ConnectionPool,
    ) -> Result<Lease, UpstreamReset> {
        let Connected {
            stream,
            place,
            address,
        } = connected;
        let memory = &client.shared.memory;
        let Some(room) = memory.take_many(client.share(), CONNECTION) else {
            client.deny(DenialReason::MemoryLimit, None);
            let limit = "too much memory of this workload in use";
            return Err(UpstreamReset::Overflow(Some(limit)));
        };
        let wide = memory.spare(client.share(), wide(WIDE_WINDOW));
        let window = wide.as_ref().map_or(WINDOW, |_| WIDE_WINDOW);
        let watch = FrameWatch::of_origin(client, MAX_HEAD);
        let lists = watch.lists();
        let (send, connection) = builder(window)
            .handshake(Watched { stream, watch })
            .await
            .map_err(|error| lease::reset_of(&error))?;
        let room = Room {
            lists,
            _descriptor: place,
            _memory: room,
            _wide: wide,
        };
        let freed = Arc::clone(&self.of.freed);
        let connection = Connection::new(send, connection, (pool, held), room, freed);
        let lease = Lease::of(&connection, address, &self.of.state);
        let lease = lease.ok_or(UpstreamReset::Termination)?;
        let mut to = self.to.clone();
        to.address = address;
        self.of.state().open.push((to, connection));
        Ok(lease)
    }
}

/// Opens HTTP/2 on a connection of its own, for a tunnel.
pub(super) async fn handshake(
    client: &Client,
    stream: Stream,
) -> Result<(SendRequest<Bytes>, h2::client::Connection<Watched<Stream>>), h2::Error> {
    let watch = FrameWatch::of_origin(client, MAX_HEAD);
    builder(WINDOW).handshake(Watched { stream, watch }).await
}

/// The library's settings, with this window.
fn builder(window: u32) -> Builder {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(window)
        .initial_connection_window_size(window)
        .max_header_list_size(MAX_HEAD as u32)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let mut state = self.of.state();
        state
            .making
            .retain(|(_, done)| !Arc::ptr_eq(done, &self.done));
        self.done.notify_waiters();
    }
}
