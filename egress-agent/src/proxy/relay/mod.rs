//! Moves bytes both ways between a client and its destination, and ends a connection on which nothing moves. An idle
//! connection has neither a buffer nor a pipe.
//!
//! `way` moves the bytes of one direction. Nothing here judges, or knows what the bytes are.

mod pipe;
mod side;
mod way;

use super::client::Client;
use super::places::{BLOCK, Place};
use super::stream::Rewound;
use super::upstream::stream::Stream;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep};
use way::{BUFFER, Way};

/// Bytes of one read if the workload has no memory to spare for both directions.
const SMALL_BUFFER: usize = 1024;

/// How long memory and pipes are held after the last byte.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// How a relayed connection ended.
pub(super) enum Ended {
    /// Both sides have ended.
    Both,
    /// No byte was moved for the idle limit.
    Silent,
}

/// Moves bytes until both sides have ended, one side fails, or the connection has been idle for the limit.
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
            let ended = up
                .poll(cx, client, (downstream, upstream), most, down.is_over())?
                .is_ready()
                & down
                    .poll(cx, client, (upstream, downstream), most, up.is_over())?
                    .is_ready();
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
            if room.place.is_none() {
                up.rest();
                down.rest();
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
    /// Bytes that had been moved at the last check.
    seen: u64,
    /// When bytes were last moved.
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
            tick.reset(self.moved + IDLE_TIME.min(self.idle));
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
        } else if is_empty && now >= self.moved + IDLE_TIME {
            self.place = None;
        }
        let next = if self.place.is_some() {
            (now + IDLE_TIME).min(self.moved + idle)
        } else {
            self.moved + idle
        };
        tick.reset(next.max(now + Duration::from_millis(1)));
        false
    }
}
