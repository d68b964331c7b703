//! The part of a request's body that was sent, kept so that a further attempt can send it again: up to Envoy's bound,
//! and within the memory of the client's workload.
//!
//! It reads nothing. Without room the body is not kept, and the request is not sent again.

use crate::proxy::client::Client;
use crate::proxy::places::{BLOCK, Place};
use bytes::Bytes;
use hyper::body::Frame;
use hyper::http::HeaderMap;
use std::collections::VecDeque;

/// The most bytes of a body that are kept (Envoy's `per_connection_buffer_limit_bytes` default).
const MAX_KEPT: usize = 1024 * 1024;

/// See the module.
pub(super) struct Kept {
    /// `None` if the body is not kept.
    client: Option<Client>,
    /// Something was sent and is not here.
    lost: bool,
    /// What a former attempt got.
    replayed: Vec<Bytes>,
    /// Bytes of memory behind `replayed`.
    behind: usize,
    /// What came after it. Copied, because a few bytes of a frame may keep a whole buffer of the HTTP library.
    last: Vec<u8>,
    bytes: usize,
    trailers: Option<HeaderMap>,
    room: Option<Place>,
}

impl Kept {
    pub(super) fn new(client: Option<&Client>) -> Self {
        Self {
            client: client.cloned(),
            lost: false,
            replayed: Vec::new(),
            behind: 0,
            last: Vec::new(),
            bytes: 0,
            trailers: None,
            room: None,
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost
    }

    /// Keeps a frame that is sent.
    pub(super) fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.lost {
            return;
        }
        if let Some(data) = frame.data_ref() {
            if self.has_room(data.len()) {
                self.last.extend_from_slice(data);
                self.bytes += data.len();
            } else {
                *self = Self {
                    lost: true,
                    ..Self::new(None)
                };
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
    }

    /// Makes room for so many bytes more.
    fn has_room(&mut self, more: usize) -> bool {
        let Some(client) = &self.client else {
            return false;
        };
        if self.bytes + more > MAX_KEPT {
            return false;
        }
        let wanted = self.last.len() + more;
        if wanted > self.last.capacity() {
            let capacity = wanted.next_power_of_two().max(BLOCK);
            // Twice: the smaller buffers before this one stay with the allocator for a while.
            let blocks = 2 * (self.behind + capacity).div_ceil(BLOCK);
            if !client.keep_spare(&mut self.room, blocks) {
                return false;
            }
            self.last.reserve_exact(capacity - self.last.len());
        }
        true
    }

    /// Everything that was sent. `None` if a part of it was not kept.
    pub(super) fn replay(&mut self) -> Option<VecDeque<Frame<Bytes>>> {
        if self.lost {
            return None;
        }
        if !self.last.is_empty() {
            self.behind += self.last.capacity();
            let last = std::mem::take(&mut self.last);
            self.replayed.push(Bytes::from(last));
        }
        let data = self.replayed.iter().cloned().map(Frame::data);
        let trailers = self.trailers.iter().cloned().map(Frame::trailers);
        Some(data.chain(trailers).collect())
    }
}
