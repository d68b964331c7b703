//! The memory of one HTTP connection: its unread bytes, the request under way, and the HTTP
//! library's buffers on both sides.
//!
//! It allocates nothing itself. A request without room waits, and is denied after a time limit.

use crate::proxy::client::Client;
use crate::proxy::places::{BLOCK, Place};
use crate::proxy::stream::WIDER;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::futures::OwnedNotified;
use tokio::time::timeout;

/// Blocks that a request and its connections need from its head on: the HTTP library's buffers of both sides (8 KiB
/// each to read and to write), its queue of requests, the proxy's tasks, and a frame of a body on its way. The default
/// share of a workload is 853 of them.
const REQUEST: usize = 12;

/// See the module.
pub(super) struct Room {
    client: Client,
    place: Option<Place>,
    /// Blocks of the HTTP library, which keeps its buffers until it is dropped.
    buffers: usize,
    /// For wide reads.
    wide: Option<Place>,
    growing: Option<Pin<Box<dyn Future<Output = Option<Place>> + Send>>>,
    wanted: Option<Pin<Box<OwnedNotified>>>,
}

/// The blocks of a buffer with bytes that are not served yet. Every connection has a small one, which is not counted.
const fn blocks_of(unread: usize) -> usize {
    if unread < BLOCK {
        0
    } else {
        unread.div_ceil(BLOCK)
    }
}

impl Room {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            place: None,
            buffers: 0,
            wide: None,
            growing: None,
            wanted: None,
        }
    }

    /// Adjusts the blocks to this many unread bytes. False if there are not enough.
    pub(super) fn keep(&mut self, unread: usize) -> bool {
        let blocks = self.buffers + blocks_of(unread);
        self.client.keep_room(&mut self.place, blocks)
    }

    /// Takes blocks for a request with a head of `head` bytes, after which `unread` bytes follow. False if it has to
    /// wait for them.
    pub(super) fn ask(&mut self, head: usize, unread: usize) -> bool {
        self.wanted = None;
        // For a long head, the library keeps larger buffers on both sides.
        self.buffers = self.buffers.max(REQUEST + 2 * (head / BLOCK));
        if self.keep(unread) {
            return true;
        }
        let shared = &self.client.shared;
        let place = self.place.take();
        let place = place.unwrap_or_else(|| shared.memory.none(self.client.share()));
        let grown = place.grown(self.buffers + blocks_of(unread));
        let growing = timeout(shared.limits.room, grown);
        self.growing = Some(Box::pin(async move { growing.await.ok() }));
        false
    }

    /// The HTTP library was dropped on both sides, and this many bytes are unread.
    pub(super) fn rest(&mut self, unread: usize) {
        (self.buffers, self.wide, self.wanted) = (0, None, None);
        // Giving blocks back never fails.
        self.keep(unread);
    }

    /// Takes blocks for wide reads if the workload has spare ones.
    pub(super) fn widen(&mut self) -> bool {
        if self.wide.is_none() {
            let memory = &self.client.shared.memory;
            self.wide = memory.spare(self.client.share(), WIDER);
        }
        self.wide.is_some()
    }

    /// Waits for the requested blocks. False if there were none within the time limit.
    pub(super) fn poll_asked(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if let Some(growing) = &mut self.growing {
            self.place = ready!(growing.as_mut().poll(cx));
            self.growing = None;
        }
        if self.place.is_none() {
            self.buffers = 0;
        }
        Poll::Ready(self.place.is_some())
    }

    /// Ready if another connection of the workload waits, so that this idle one should give memory back.
    pub(super) fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(place) = self.place.as_ref().filter(|_| self.buffers > 0) else {
            return Poll::Pending;
        };
        let wanted = self.wanted.get_or_insert_with(|| Box::pin(place.wanted()));
        wanted.as_mut().poll(cx)
    }
}
