//! HTTP/1.1 connections to endpoints, and the few idle ones that a client connection keeps.
//!
//! Connections are never shared between client connections, so no workload can use another
//! workload's connection.

use super::connect::Connected;
use super::held::Held;
use super::responses::{Reading, Responses};
use super::stream::Stream;
use super::tls::Peer;
use super::usage::{Evict, Queued, Usage};
use crate::proxy::client::Client;
use crate::proxy::loan::{Home, Loan};
use crate::proxy::places::Place;
use crate::proxy::ticket::OwnedTask;
use egress_core::routing::Cluster;
use hyper::body::Body;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::Poll;
use tokio::time::sleep;

/// The buffer of an upstream connection for each direction. It also limits a response head (Envoy's limit is 60 KiB).
const BUFFER: usize = 64 * 1024;
/// Blocks of memory that an idle connection takes.
const IDLE: usize = 6;
/// Blocks of memory that reads of up to [`BUFFER`] bytes take.
const READ_BLOCKS: usize = 32;

/// An HTTP/1.1 connection to an endpoint. Dropping it closes the socket, even during an exchange.
pub(in crate::proxy) struct Upstream<B> {
    pub(in crate::proxy) address: SocketAddr,
    pub(in crate::proxy) service: Arc<Cluster>,
    /// Whose certificate was verified, if it is TLS.
    peer: Option<Peer>,
    pub(in crate::proxy) send: SendRequest<B>,
    reading: Arc<Reading>,
    /// The stream comes back here from the HTTP library.
    home: Home<Responses>,
    /// For wide reads.
    wide: Option<Place>,
    task: OwnedTask,
    place: Place,
    /// The memory of a further idle connection. The running request has room for one.
    room: Option<Place>,
    pub(in crate::proxy) held: Held,
}

impl<B> Upstream<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    pub(in crate::proxy) async fn new(
        connected: Connected,
        service: Arc<Cluster>,
        peer: Option<Peer>,
    ) -> hyper::Result<Self> {
        let Connected {
            stream,
            place,
            address,
        } = connected;
        let reading = Arc::default();
        let (stream, home) = Loan::new(Responses::new(stream, Arc::clone(&reading)));
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
            peer,
            send,
            reading,
            home,
            wide: None,
            task: OwnedTask(task),
            place,
            room: None,
            held: Held::default(),
        })
    }

    /// The next bytes that it sends are the head of a response.
    pub(in crate::proxy) fn expect_response(&self) {
        self.reading.expected.store(true, Ordering::Release);
    }

    /// Reads a long response in larger parts, if the workload has memory to spare.
    pub(in crate::proxy) fn widen(&mut self, client: &Client) {
        if self.wide.is_none() {
            self.wide = client.shared.memory.spare(client.share(), READ_BLOCKS);
            let wide = self.wide.is_some();
            self.reading.wide.store(wide, Ordering::Relaxed);
        }
    }

    /// Takes the connection back from the HTTP library if it is open and between two responses.
    async fn rest(mut self) -> Option<Resting> {
        if self.send.is_closed() {
            return None;
        }
        self.task.0.abort();
        // `send` is dropped only after the library's half has ended. Otherwise the library would close the connection.
        let _ = (&mut self.task.0).await;
        let stream = self.home.take()?.into_stream()?;
        Some(Resting {
            address: self.address,
            service: self.service,
            peer: self.peer,
            stream,
            place: self.place,
            held: self.held,
        })
    }
}

/// An idle connection without the HTTP library, which has large buffers.
struct Resting {
    address: SocketAddr,
    service: Arc<Cluster>,
    peer: Option<Peer>,
    stream: Stream,
    place: Place,
    held: Held,
}

impl Resting {
    /// Where the connection is counted, if it may have to give way.
    fn counted(&self) -> Option<Arc<Usage>> {
        let limited = self.service.policy.pool.connections.is_some();
        self.held.usage().filter(|_| limited)
    }
}

/// An idle connection.
enum Idle<B> {
    Ready(Upstream<B>),
    Resting(Resting),
}

impl<B> Idle<B> {
    /// The service that it was made for, the address that it leads to, and whose certificate was verified.
    fn leads(&self) -> (&Cluster, SocketAddr, Option<&Peer>) {
        match self {
            Self::Ready(upstream) => (&upstream.service, upstream.address, upstream.peer.as_ref()),
            Self::Resting(resting) => (&resting.service, resting.address, resting.peer.as_ref()),
        }
    }

    /// Whether the connection was made for this service at this address, in clear text or with the TLS settings that
    /// hold now.
    fn fits(&self, service: &Cluster, address: SocketAddr, peer: Option<&Peer>) -> bool {
        let (own, at, of) = self.leads();
        let header = own.policy.proxy_protocol == service.policy.proxy_protocol;
        service.is_same(address, at) && own.id == service.id && header && of == peer
    }

    /// Whether it may still be of use, as far as a flow to this address of a service tells.
    fn may_stay(&self, service: &Cluster, address: SocketAddr) -> bool {
        let (own, at, _) = self.leads();
        !self.held().is_ejected() && (own.id != service.id || service.keeps(address, at))
    }

    fn held(&self) -> &Held {
        match self {
            Self::Ready(upstream) => &upstream.held,
            Self::Resting(resting) => &resting.held,
        }
    }
}

/// The place of an idle connection. The connection may be taken away from it.
struct Slot<B>(Mutex<Option<Idle<B>>>);

impl<B> Slot<B> {
    fn idle(&self) -> MutexGuard<'_, Option<Idle<B>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Idle<B>> {
        self.idle().take()
    }
}

impl<B: Send> Evict for Slot<B> {
    fn evict(&self) -> bool {
        self.take().is_some()
    }
}

struct Kept<B> {
    slot: Arc<Slot<B>>,
    /// Ends the connection when it was idle for too long.
    _timer: Option<OwnedTask>,
    /// It may have to give way.
    queued: Option<Queued>,
}

/// Idle upstream connections of one client connection.
pub(in crate::proxy) struct Pool<B> {
    idle: Mutex<Vec<Kept<B>>>,
    /// Keeps no further connections: its client connection is idle or over, and only copies of requests still run.
    shut: AtomicBool,
    /// For ever.
    closed: AtomicBool,
}

impl<B> Default for Pool<B> {
    fn default() -> Self {
        Self {
            idle: Mutex::default(),
            shut: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        }
    }
}

impl<B> Pool<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Takes a connection that is open and ready. Closes those to former addresses of the service.
    pub(in crate::proxy) async fn take(
        &self,
        service: &Cluster,
        address: SocketAddr,
        peer: Option<&Peer>,
    ) -> Option<Upstream<B>> {
        self.shut.store(false, Ordering::Release);
        self.all().retain(|kept| {
            let idle = kept.slot.idle();
            idle.as_ref()
                .is_some_and(|idle| idle.may_stay(service, address))
        });
        loop {
            let idle = {
                let mut all = self.all();
                let fits = |kept: &Kept<B>| {
                    let idle = kept.slot.idle();
                    idle.as_ref()
                        .is_some_and(|idle| idle.fits(service, address, peer))
                };
                let at = all.iter().rposition(fits)?;
                all.remove(at).slot.take()
            };
            let Some(idle) = idle else {
                continue;
            };
            match idle {
                Idle::Ready(mut upstream) => {
                    if upstream.send.ready().await.is_ok() {
                        return Some(upstream);
                    }
                }
                Idle::Resting(mut resting) => {
                    if !resting.stream.is_idle() {
                        continue;
                    }
                    let Resting {
                        address,
                        service,
                        peer,
                        stream,
                        place,
                        held,
                    } = resting;
                    let connected = Connected {
                        stream,
                        place,
                        address,
                    };
                    let woken = Upstream::new(connected, service, peer).await;
                    if let Ok(mut upstream) = woken {
                        upstream.held = held;
                        return Some(upstream);
                    }
                }
            }
        }
    }

    /// Keeps a connection after its exchange, and drops the oldest if there are too many. A second one is kept only if
    /// the workload has spare memory.
    pub(in crate::proxy) fn put(&self, client: &Client, mut upstream: Upstream<B>) {
        let service = Arc::clone(&upstream.service);
        let pool = &service.policy.pool;
        if upstream.send.is_closed() || !upstream.held.may_serve(pool) {
            return;
        }
        upstream.held.request_over();
        let (memory, most) = (&client.shared.memory, client.shared.limits.idle_upstreams);
        let mut idle = self.all();
        if self.shut.load(Ordering::Acquire) || self.closed.load(Ordering::Acquire) {
            return;
        }
        if !idle.is_empty() && upstream.room.is_none() {
            upstream.room = memory.spare(client.share(), IDLE);
            if upstream.room.is_none() {
                return;
            }
        }
        let timer = upstream.held.idle_limit(pool);
        let usage = upstream.held.usage().filter(|_| pool.connections.is_some());
        let slot = Arc::new(Slot(Mutex::new(Some(Idle::Ready(upstream)))));
        let timer = timer.map(|limit| {
            let slot = Arc::downgrade(&slot);
            OwnedTask(tokio::spawn(async move {
                sleep(limit).await;
                if let Some(slot) = slot.upgrade() {
                    slot.evict();
                }
            }))
        });
        let queued = usage.map(|usage| {
            let slot: Weak<Slot<B>> = Arc::downgrade(&slot);
            usage.idle(slot)
        });
        idle.push(Kept {
            slot,
            _timer: timer,
            queued,
        });
        if idle.len() > most {
            idle.remove(0);
        }
    }

    /// Takes all idle connections back from the HTTP library. No request may be running, but copies may.
    pub(in crate::proxy) async fn rest(&self) {
        let mut all = {
            let mut all = self.all();
            self.shut.store(true, Ordering::Release);
            std::mem::take(&mut *all)
        };
        for kept in &mut all {
            let rested = match kept.slot.take() {
                Some(Idle::Ready(upstream)) => upstream.rest().await,
                Some(Idle::Resting(resting)) => Some(resting),
                None => None,
            };
            let counted = rested.as_ref().and_then(Resting::counted);
            *kept.slot.idle() = rested.map(Idle::Resting);
            // It could not give way while it was out of its place, and may have lost its entry.
            kept.queued = counted.map(|usage| {
                let slot: Weak<Slot<B>> = Arc::downgrade(&kept.slot);
                usage.idle(slot)
            });
        }
        all.retain(|kept| kept.slot.idle().is_some());
        // Copies of requests may have put some back meanwhile.
        let mut now = self.all();
        all.append(&mut now);
        *now = all;
    }

    /// Drops idle connections that their origin closes.
    pub(in crate::proxy) async fn watch(&self) -> Infallible {
        poll_fn(|cx| {
            self.all().retain(|kept| match &mut *kept.slot.idle() {
                None => false,
                Some(Idle::Ready(_)) => true,
                Some(Idle::Resting(resting)) => resting.stream.poll_lost(cx).is_pending(),
            });
            Poll::Pending
        })
        .await
    }
}

impl<B> Pool<B> {
    /// Closes all idle connections, and each that comes back later.
    pub(in crate::proxy) fn close(&self) {
        let all = {
            let mut all = self.all();
            self.closed.store(true, Ordering::Release);
            std::mem::take(&mut *all)
        };
        drop(all);
    }

    fn all(&self) -> MutexGuard<'_, Vec<Kept<B>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
