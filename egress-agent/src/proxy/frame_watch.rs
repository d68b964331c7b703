//! Watches the frames of an HTTP/2 connection below the library: floods end the connection, and so do lists of fields
//! for which the workload's share has no memory.
//!
//! `egress_core::http::flood` has the bounds, `field_room` the memory. It reads and writes no bytes itself.

use super::client::Client;
use super::field_room::{FieldRoom, KeptLists};
use egress_core::http::flood::{Flood, FloodLimit};
use egress_core::http::frames::FrameReader;
use std::sync::Arc;
use thiserror::Error;
use tokio::time::Instant;

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum Unruly {
    #[error("HTTP/2: {0}")]
    Flood(#[from] Flood),
    #[error("HTTP/2: most requests were reset by their client before a response")]
    Resets,
    #[error("HTTP/2: a list of fields that does not end")]
    Unfinished,
    #[error("no memory of the workload's share left for a list of fields")]
    NoRoom,
}

/// See the module.
pub(super) struct FrameWatch {
    received: FrameReader,
    sent: FrameReader,
    limit: FloodLimit,
    start: Instant,
    lists: FieldRoom,
}

impl FrameWatch {
    /// Of the connection of a client. `list`: bytes of the largest list of fields.
    pub(super) fn of_client(client: &Client, list: usize) -> Self {
        Self {
            received: FrameReader::after_preface(),
            sent: FrameReader::default(),
            limit: FloodLimit::of_client(),
            start: Instant::now(),
            lists: FieldRoom::new(client, list),
        }
    }

    /// Of a connection to an origin.
    pub(super) fn of_origin(client: &Client, list: usize) -> Self {
        Self {
            received: FrameReader::default(),
            sent: FrameReader::after_preface(),
            limit: FloodLimit::of_origin(),
            ..Self::of_client(client, list)
        }
    }

    /// Counts bytes before the library gets them. On an error it must not get them.
    pub(super) fn received(&mut self, mut bytes: &[u8]) -> Result<(), Unruly> {
        let now = self.start.elapsed();
        loop {
            let content = self.received.content(&mut bytes);
            if !self.lists.read(content, self.received.is_whole()) {
                return Err(Unruly::NoRoom);
            }
            let Some(frame) = self.received.next(&mut bytes) else {
                return Ok(());
            };
            // The head of a request takes memory with its stream.
            self.lists.begin(&frame, self.limit.opens(&frame));
            self.limit.received(&frame, now)?;
        }
    }

    /// Counts bytes that the peer gets.
    pub(super) fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.sent.next(&mut bytes) {
            self.limit.sent(&frame);
        }
    }

    /// The same of the first `count` bytes in `slices`.
    pub(super) fn sent_vectored(&mut self, slices: &[std::io::IoSlice<'_>], count: usize) {
        let mut left = count;
        for slice in slices {
            let part = left.min(slice.len());
            self.sent(&slice[..part]);
            left -= part;
        }
    }

    /// The memory of the lists of fields that are whole.
    pub(super) fn lists(&self) -> Arc<KeptLists> {
        self.lists.kept()
    }

    /// Whether the peer has begun a list of fields and not finished it.
    pub(super) fn in_block(&self) -> bool {
        self.limit.in_block()
    }
}
