//! Copies bytes both ways between a client and its destination. An idle connection has no buffer: bytes are read
//! into a buffer of the thread, and only bytes that the other side does not accept at once are kept.
//!
//! It judges nothing, and does not know what the bytes are.

use super::client::Client;
use super::places::{BLOCK, Place};
use super::stream::Rewound;
use super::upstream::stream::Stream;
use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// Bytes of one read: if the workload has memory to spare for both directions, and otherwise.
const BUFFER: usize = 4 * BLOCK;
const SMALL_BUFFER: usize = 1024;

/// How long memory is held after the last byte.
const REST: Duration = Duration::from_secs(1);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// How a relayed connection ended.
pub(super) enum Ended {
    /// Both sides have ended.
    Both,
    /// No byte was copied for the idle limit.
    Silent,
}

/// Copies until both sides have ended, one side fails, or the connection has been idle for the limit.
pub(super) async fn relay(
    client: &Client,
    downstream: &mut Rewound,
    upstream: &mut Stream,
    idle: Duration,
) -> io::Result<Ended> {
    let counters = downstream.counters();
    let (mut up, mut down) = (Way::default(), Way::default());
    let mut room = Room::new(client, counters.total(), idle);
    let mut tick = pin!(sleep(idle));
    std::future::poll_fn(|cx| {
        loop {
            downstream.wide = room.place.is_some();
            let most = room.most();
            let ended = up.poll(cx, downstream, upstream, most)?.is_ready()
                & down.poll(cx, upstream, downstream, most)?.is_ready();
            if ended {
                return Poll::Ready(Ok(Ended::Both));
            }
            if !room.take(counters.total(), tick.as_mut()) {
                break;
            }
        }
        while tick.as_mut().poll(cx).is_ready() {
            let is_empty = up.is_empty() && down.is_empty();
            if room.is_silent(counters.total(), is_empty, tick.as_mut()) {
                return Poll::Ready(Ok(Ended::Silent));
            }
        }
        Poll::Pending
    })
    .await
}

/// The memory of a connection, held while bytes move.
struct Room<'a> {
    client: &'a Client,
    place: Option<Place>,
    /// Bytes that had been copied at the last check.
    seen: u64,
    /// When bytes were last copied.
    moved: Instant,
    /// How long the connection may be silent.
    idle: Duration,
}

impl<'a> Room<'a> {
    fn new(client: &'a Client, seen: u64, idle: Duration) -> Self {
        Self {
            client,
            place: None,
            seen,
            moved: Instant::now(),
            idle,
        }
    }

    /// The most bytes of one read.
    fn most(&self) -> usize {
        self.place.as_ref().map_or(SMALL_BUFFER, |_| BUFFER)
    }

    /// Takes memory if bytes have moved and there is some to spare; true if it did.
    fn take(&mut self, total: u64, tick: Pin<&mut Sleep>) -> bool {
        if self.place.is_some() || total == self.seen {
            return false;
        }
        (self.seen, self.moved) = (total, Instant::now());
        let memory = &self.client.shared.memory;
        self.place = memory.spare(self.client.share(), 2 * BUFFER / BLOCK);
        let taken = self.place.is_some();
        if taken {
            tick.reset(self.moved + REST.min(self.idle));
        }
        taken
    }

    /// Whether the connection has been idle for the limit. Returns unused memory, and sets the time of the next
    /// check.
    fn is_silent(&mut self, total: u64, is_empty: bool, tick: Pin<&mut Sleep>) -> bool {
        let (now, idle) = (Instant::now(), self.idle);
        if total != self.seen {
            (self.seen, self.moved) = (total, now);
        } else if now >= self.moved + idle {
            return true;
        } else if is_empty && now >= self.moved + REST {
            self.place = None;
        }
        let next = if self.place.is_some() {
            (now + REST).min(self.moved + idle)
        } else {
            self.moved + idle
        };
        tick.reset(next.max(now + Duration::from_millis(1)));
        false
    }
}

/// One direction.
#[derive(Default)]
struct Way {
    /// Bytes that the receiver has not accepted yet.
    held: Vec<u8>,
    written: usize,
    /// The sender has ended its side.
    ended: bool,
    /// Accepted bytes may wait in a buffer of the receiver's connection (TLS).
    unflushed: bool,
    /// The proxy has ended its side towards the receiver.
    over: bool,
}

impl Way {
    fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Copies as much as possible. Ready when the sender's end has reached the receiver.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        most: usize,
    ) -> Poll<io::Result<()>> {
        while !self.over {
            ready!(self.poll_held(cx, to))?;
            if self.ended {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.over = true;
            } else {
                let fresh = self.poll_fresh(cx, from, to, most)?;
                if fresh.is_pending() && self.unflushed {
                    self.unflushed = Pin::new(&mut *to).poll_flush(cx)?.is_pending();
                }
                ready!(fresh);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_held(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.held[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => (self.written, self.unflushed) = (self.written + count, true),
            }
        }
        if !self.held.is_empty() {
            (self.held, self.written) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once, and keeps the bytes that the receiver does not accept.
    fn poll_fresh(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        most: usize,
    ) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch[..most]);
            ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
            let fresh = buffer.filled();
            if fresh.is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            let taken = match Pin::new(to).poll_write(cx, fresh)? {
                Poll::Ready(count) => count,
                Poll::Pending => 0,
            };
            self.unflushed = true;
            self.held.extend_from_slice(&fresh[taken..]);
            Poll::Ready(Ok(()))
        })
    }
}
