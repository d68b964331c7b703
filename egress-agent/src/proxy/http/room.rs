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

/// Blocks that a request and its connections take from its head on: the HTTP library's buffers of
/// both sides (8 KiB each to read and to write), its queue of requests, the proxy's tasks, and a
/// frame of a body on its way. The default share of a workload is 853 of them.
const REQUEST: usize = 12;

/// See the module.
pub(super) struct Room {
    client: Client,
    place: Option<Place>,
    /// Blocks of the HTTP library, which keeps its buffers for as long as it lives.
    buffers: usize,
    /// For wide reads.
    wide: Option<Place>,
    growing: Option<Pin<Box<dyn Future<Output = Option<Place>> + Send>>>,
    wanted: Option<Pin<Box<OwnedNotified>>>,
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

    /// Takes and gives back blocks for so many unread bytes; false where there are no more of them.
    pub(super) fn keep(&mut self, unread: usize) -> bool {
        let blocks = self.buffers + unread / BLOCK;
        self.client.keep_room(&mut self.place, blocks)
    }

    /// Takes blocks for a request whose head has so many bytes, behind which others are unread; false
    /// where it has to wait for them.
    pub(super) fn ask(&mut self, head: usize, unread: usize) -> bool {
        self.wanted = None;
        // The library keeps the buffers into which it reads a long head and writes it again.
        self.buffers = self.buffers.max(REQUEST + 2 * (head / BLOCK));
        if self.keep(unread) {
            return true;
        }
        let shared = &self.client.shared;
        let place = self.place.take();
        let place = place.unwrap_or_else(|| shared.memory.none(self.client.share()));
        let grown = place.grown(self.buffers + unread / BLOCK);
        let growing = timeout(shared.limits.room, grown);
        self.growing = Some(Box::pin(async move { growing.await.ok() }));
        false
    }

    /// The HTTP library is gone on both sides, and so many bytes are unread.
    pub(super) fn rest(&mut self, unread: usize) {
        (self.buffers, self.wide, self.wanted) = (0, None, None);
        // Fewer blocks there always are.
        self.keep(unread);
    }

    /// Takes blocks for wide reads, if the workload has them to spare.
    pub(super) fn widen(&mut self) -> bool {
        if self.wide.is_none() {
            let memory = &self.client.shared.memory;
            self.wide = memory.spare(self.client.share(), WIDER);
        }
        self.wide.is_some()
    }

    /// Waits for the blocks that were asked for; false where there were none in time.
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

    /// Whether the connection, which is idle, shall give back what it can: another of the workload waits.
    pub(super) fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(place) = self.place.as_ref().filter(|_| self.buffers > 0) else {
            return Poll::Pending;
        };
        let wanted = self.wanted.get_or_insert_with(|| Box::pin(place.wanted()));
        wanted.as_mut().poll(cx)
    }
}
