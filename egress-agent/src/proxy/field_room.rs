//! The memory of the lists of fields of an HTTP/2 peer, from their first byte until their stream is over.
//!
//! `egress_core::http::field_list` says how much each takes.

use super::client::Client;
use super::places::{BLOCK, Place};
use egress_core::http::field_list::FieldList;
use egress_core::http::frames::{Frame, flag, kind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bytes of memory for each byte of the largest list that the library accepts. It drops the fields beyond that.
const DECODED: usize = 3;

/// The memory of whole lists, by the stream that has them.
#[derive(Default)]
pub(super) struct KeptLists(Mutex<Vec<(u32, Place)>>);

/// Gives the memory of a stream's lists back when it is dropped.
pub(super) struct StreamLists {
    of: Arc<KeptLists>,
    stream: u32,
}

impl KeptLists {
    pub(super) fn of(self: &Arc<Self>, stream: u32) -> StreamLists {
        StreamLists {
            of: Arc::clone(self),
            stream,
        }
    }

    /// No stream is left. Lists that came after the end of theirs are still here.
    pub(super) fn clear(&self) {
        self.kept().clear();
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(u32, Place)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StreamLists {
    fn drop(&mut self) {
        self.of.kept().retain(|(stream, _)| *stream != self.stream);
    }
}

/// The memory of the list that is under way.
pub(super) struct FieldRoom {
    client: Client,
    kept: Arc<KeptLists>,
    /// Bytes.
    most: usize,
    open: Option<Open>,
}

struct Open {
    stream: u32,
    list: FieldList,
    room: Option<Place>,
    /// Its last part has begun.
    ends: bool,
    /// Its stream has memory of its own for it once it is whole.
    is_counted: bool,
}

impl FieldRoom {
    /// `most`: bytes of the largest list that the library accepts.
    pub(super) fn new(client: &Client, most: usize) -> Self {
        Self {
            client: client.clone(),
            kept: Arc::default(),
            most: DECODED * most,
            open: None,
        }
    }

    pub(super) fn kept(&self) -> Arc<KeptLists> {
        Arc::clone(&self.kept)
    }

    /// A frame begins. `is_counted`: its stream has memory of its own for a list that begins here, once it is whole.
    pub(super) fn begin(&mut self, frame: &Frame, is_counted: bool) {
        let ends = frame.has(flag::END_HEADERS);
        match (frame.kind, &mut self.open) {
            // The library decodes it at once.
            (kind::HEADERS, open) if ends && is_counted => *open = None,
            (kind::HEADERS | kind::PUSH_PROMISE, open) => {
                *open = Some(Open {
                    stream: frame.stream,
                    list: FieldList::default(),
                    room: None,
                    ends,
                    is_counted,
                });
            }
            (kind::CONTINUATION, Some(open)) => open.ends = ends,
            _ => {}
        }
    }

    /// Counts bytes of the present frame. `is_whole`: these are the last bytes of the frame. False if the workload's share
    /// has no memory for them.
    pub(super) fn read(&mut self, content: &[u8], is_whole: bool) -> bool {
        let Some(open) = &mut self.open else {
            return true;
        };
        open.list.read(content);
        let blocks = open.list.memory().min(self.most) / BLOCK;
        if !self.client.keep_room(&mut open.room, blocks) {
            return false;
        }
        if open.ends && is_whole {
            let kept = open.room.take().filter(|_| !open.is_counted);
            let kept = kept.map(|place| (open.stream, place));
            self.kept.kept().extend(kept);
            self.open = None;
        }
        true
    }
}
