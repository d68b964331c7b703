//! One redirected connection: its stream with the bytes that were read ahead put back, its bytes
//! counted, and the one record that is written when it is over.

use super::ahead::Ahead;
use super::guard::Guard;
use super::places::Place;
use super::{AccessRecord, Origin, Protocol, Refusal, RefusalReason, Shared};
use egress_core::http::local_reply::{ResponseFlag, ResponseFlags};
use egress_core::routing::{Cluster, RouteTable, Turn, candidates};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Whose connection it is.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) origin: Arc<Origin>,
    pub(super) peer: SocketAddr,
}

impl Client {
    /// Addresses of a destination, in the order in which they are dialled for this client.
    pub(super) fn addresses_of(&self, cluster: &Cluster) -> Vec<SocketAddr> {
        candidates(cluster, self.origin.destination, Turn::Next)
    }

    /// The cgroup whose share of the proxy it takes at the moment.
    pub(super) fn share(&self) -> u64 {
        self.origin.share_in(&self.shared.routes.load())
    }

    /// Takes and gives back blocks of memory, so that `room` has so many; false where there are no
    /// more.
    pub(super) fn keep_room(&self, room: &mut Option<Place>, blocks: usize) -> bool {
        match room {
            Some(place) if blocks > 0 => place.resize(blocks),
            None if blocks > 0 => {
                *room = self.shared.memory.take_many(self.share(), blocks);
                room.is_some()
            }
            Some(_) | None => {
                *room = None;
                true
            }
        }
    }

    /// Tells the observer about a denial.
    pub(super) fn refuse(&self, reason: RefusalReason, name: Option<&str>) {
        self.tell(reason, name, false);
    }

    /// Where what no rule lets through goes all the same, if its policy audits: the observer is
    /// told then.
    pub(super) fn audited(
        &self,
        reason: &RefusalReason,
        name: Option<&str>,
    ) -> Option<Arc<Cluster>> {
        let origin = &self.origin;
        let routes = self.shared.routes.load();
        let cluster = routes.audited(origin.policy_in(&routes), origin.destination)?;
        self.tell(reason.clone(), name, true);
        Some(cluster)
    }

    /// Whether the policy that the owner has now holds what `listed` asks for, or denies nothing.
    pub(super) fn may(&self, listed: impl Fn(&RouteTable, u32) -> bool) -> bool {
        let routes = self.shared.routes.load();
        let policy = self.origin.policy_in(&routes);
        routes.audits(policy) || listed(&routes, policy)
    }

    /// Waits until the owner's policy no longer holds what `listed` asks for; never, where running
    /// connections are kept, nor while the policy audits.
    pub(super) async fn removed(&self, listed: impl Fn(&RouteTable, u32) -> bool) {
        if let Some(mut changes) = self.shared.changes.clone() {
            while self.may(&listed) {
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        } else {
            std::future::pending::<()>().await;
        }
    }

    fn tell(&self, reason: RefusalReason, name: Option<&str>, audit: bool) {
        let refusal = Refusal {
            peer: self.peer,
            name: name.map(str::to_owned),
            reason,
            audit,
        };
        let policy = self.origin.policy_in(&self.shared.routes.load());
        let origin = Origin {
            policy,
            ..Origin::clone(&self.origin)
        };
        self.shared.observer.refused(Some(&origin), &refusal);
    }
}

/// Bytes of one request or connection.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
}

impl Counters {
    /// Waits until no byte went either way for `limit`, at most twice as long.
    pub(super) async fn silence(&self, limit: Duration) {
        let total = || {
            let received = self.received.load(Ordering::Relaxed);
            received.wrapping_add(self.sent.load(Ordering::Relaxed))
        };
        let mut before = total();
        loop {
            sleep(limit).await;
            let now = total();
            if now == before {
                return;
            }
            before = now;
        }
    }
}

/// Bytes of one read at most. hyper begins with a buffer of 8 KiB, doubles it when a read fills it,
/// and keeps it for the life of the connection: with one byte less it never grows.
pub(super) const NARROW: usize = 8 * 1024 - 1;
/// The same where there is memory for it: long bodies cost less in larger parts.
const WIDE: usize = 16 * 1024;
/// Blocks of memory that such reads take: hyper's buffer grows to 56 KiB.
pub(super) const WIDER: usize = 16;
/// Bytes of a body for which it is worth the while.
pub(super) const LONG: usize = 32 * 1024;

/// Reads at most so many bytes.
pub(super) fn poll_part(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
    most: usize,
) -> Poll<io::Result<()>> {
    let mut part = buffer.take(most);
    ready!(Pin::new(stream).poll_read(cx, &mut part))?;
    let count = part.filled().len();
    // SAFETY: `part` is the beginning of the unfilled part of `buffer`, and so many bytes of it are
    // filled. Zeroing them before would make a page of each idle buffer resident.
    unsafe { buffer.assume_init(count) };
    buffer.advance(count);
    Poll::Ready(Ok(()))
}

/// The client's stream: first what was read ahead, then the socket.
pub(super) struct Rewound {
    ahead: Ahead,
    given: usize,
    stream: TcpStream,
    counters: Arc<Counters>,
    guard: Option<Box<Guard>>,
    /// There is memory for large reads.
    pub(super) wide: bool,
}

impl Rewound {
    pub(super) fn new(ahead: Ahead, stream: TcpStream) -> Self {
        Self {
            ahead,
            given: 0,
            stream,
            counters: Arc::default(),
            guard: None,
            wide: false,
        }
    }

    /// The stream of a TLS connection of which `hello` was read and `guard` holds what follows.
    pub(super) fn guarded(hello: Ahead, guard: Guard, stream: TcpStream) -> Self {
        let mut new = Self::new(hello, stream);
        new.guard = Some(Box::new(guard));
        new
    }

    /// Why the guard lets the connection go no further.
    pub(super) fn denied(&mut self) -> Option<RefusalReason> {
        self.guard.as_mut()?.denied()
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.given < self.ahead.len() {
            let take = buffer.remaining().min(self.ahead.len() - self.given);
            buffer.put_slice(&self.ahead[self.given..self.given + take]);
            self.given += take;
            if self.given == self.ahead.len() {
                self.ahead = Ahead::default();
                self.given = 0;
            }
        } else {
            let this = &mut *self;
            if let Some(guard) = &mut this.guard {
                ready!(guard.poll_read(&mut this.stream, cx, buffer))?;
                if guard.is_over() {
                    this.guard = None;
                }
            } else {
                let most = if this.wide { WIDE } else { NARROW };
                ready!(poll_part(&mut this.stream, cx, buffer, most))?;
            }
        }
        let count = buffer.filled().len() - before;
        self.counters
            .received
            .fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        if let Some(guard) = &mut self.guard {
            guard.server(&bytes[..count]);
        }
        self.counters
            .sent
            .fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        if let Some(guard) = &mut self.guard {
            let mut left = count;
            for slice in slices {
                let written = left.min(slice.len());
                guard.server(&slice[..written]);
                left -= written;
            }
        }
        self.counters
            .sent
            .fetch_add(count as u64, Ordering::Relaxed);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The record of one request or connection, handed to the observer when it is dropped: however a
/// flow ends, it is recorded once.
pub(super) struct Ticket {
    client: Client,
    started: Instant,
    pub(super) counters: Arc<Counters>,
    pub(super) record: AccessRecord,
    /// The client speaks gRPC: replies of the proxy's own are in its form.
    pub(super) grpc: bool,
    done: bool,
}

impl Ticket {
    pub(super) fn new(client: Client, protocol: Protocol, counters: Arc<Counters>) -> Self {
        let record = AccessRecord {
            protocol,
            peer: client.peer,
            host: String::new(),
            method: String::new(),
            path: String::new(),
            service: None,
            upstream: None,
            attempts: 0,
            response_code: 0,
            flags: ResponseFlags::default(),
            bytes_received: 0,
            bytes_sent: 0,
            duration: Duration::ZERO,
            upstream_service_time: None,
        };
        Self {
            client,
            started: Instant::now(),
            counters,
            record,
            grpc: false,
            done: false,
        }
    }

    /// Whose flow it is.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// The flow came to its end; without this the record says that the client left (DC).
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
        if !self.done {
            self.record.flags = self.record.flags.with(ResponseFlag::DC);
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
