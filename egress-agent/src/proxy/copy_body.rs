//! The body of a copy: what the client's request gives waits here until the mirror takes it, up to a bound and within
//! the memory for copies.
//!
//! It never makes the request wait. A mirror that is too slow loses its copy.

use super::client::Client;
use super::copy_room::CopyRoom;
use super::places::BLOCK;
use crate::lock::lock;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::http::HeaderMap;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// The most bytes that wait (Envoy's `per_connection_buffer_limit_bytes` default).
const MAX_BUFFERED: usize = 1024 * 1024;
/// Bytes that are kept and sent together, at most.
const SEGMENT: usize = 16 * 1024;

/// Why a copy has no further bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum CopyLost {
    #[error("the mirror is too slow for the request")]
    NoRoom,
    #[error("the request ended before its body")]
    Request,
}

/// The side of the request. Dropping it before the end of the body ends the copy.
pub(super) struct Feed(Arc<Mutex<Queue>>);

/// The side of the copy.
pub(super) struct CopyBody {
    queue: Arc<Mutex<Queue>>,
    /// Bytes that are still to come, if the request gave a length.
    left: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Ended,
    Lost(CopyLost),
    /// The copy needs no further bytes.
    Over,
}

struct Queue {
    segments: VecDeque<Vec<u8>>,
    trailers: Option<HeaderMap>,
    state: State,
    room: CopyRoom,
    /// Of the connection of the copy.
    waker: Option<Waker>,
    /// Of the copy's task.
    watching: Option<Waker>,
}

/// Both sides of the body of a copy. `length`: if the request gave one.
pub(super) fn copy_of(client: &Client, length: Option<u64>) -> (Feed, CopyBody) {
    let queue = Arc::new(Mutex::new(Queue {
        segments: VecDeque::new(),
        trailers: None,
        state: State::Open,
        room: CopyRoom::none(client),
        waker: None,
        watching: None,
    }));
    let left = length;
    (Feed(Arc::clone(&queue)), CopyBody { queue, left })
}

impl Feed {
    /// Copies a frame.
    pub(super) fn frame(&self, frame: &Frame<Bytes>) {
        let mut queue = lock(&self.0);
        if queue.state != State::Open {
            return;
        }
        if let Some(data) = frame.data_ref() {
            if !queue.push(data) {
                queue.end(State::Lost(CopyLost::NoRoom));
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            queue.trailers = Some(trailers.clone());
        }
        queue.wake();
    }

    /// The request was read whole.
    pub(super) fn end(&self) {
        lock(&self.0).end(State::Ended);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        lock(&self.0).end(State::Lost(CopyLost::Request));
    }
}

impl Queue {
    /// False without room.
    fn push(&mut self, mut data: &[u8]) -> bool {
        while !data.is_empty() {
            match self.segments.back_mut() {
                Some(last) if last.len() < last.capacity() => {
                    let count = data.len().min(last.capacity() - last.len());
                    last.extend_from_slice(&data[..count]);
                    data = &data[count..];
                }
                _ => {
                    let size = data.len().clamp(BLOCK, SEGMENT);
                    let blocks = self.room.blocks() + size.div_ceil(BLOCK);
                    if blocks > MAX_BUFFERED / BLOCK || !self.room.resize(blocks) {
                        return false;
                    }
                    self.segments.push_back(Vec::with_capacity(size));
                }
            }
        }
        true
    }

    fn pop(&mut self) -> Option<Bytes> {
        let segment = self.segments.pop_front()?;
        let blocks = segment.capacity().div_ceil(BLOCK);
        // Giving blocks back never fails.
        self.room.resize(self.room.blocks().saturating_sub(blocks));
        Some(Bytes::from(segment))
    }

    /// The first end counts. What waits is dropped unless it is whole.
    fn end(&mut self, state: State) {
        if self.state != State::Open {
            return;
        }
        self.state = state;
        if state != State::Ended {
            self.forget();
        }
        self.wake();
        if let Some(watching) = self.watching.take() {
            watching.wake();
        }
    }

    fn forget(&mut self) {
        self.segments = VecDeque::new();
        self.trailers = None;
        self.room.resize(0);
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl CopyBody {
    /// Tells whether it broke off.
    pub(super) fn loss(&self) -> Loss {
        Loss(Arc::clone(&self.queue))
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CopyLost>>> {
        let mut queue = lock(&self.queue);
        if let State::Lost(lost) = queue.state {
            return Poll::Ready(Some(Err(lost)));
        }
        if let Some(data) = queue.pop() {
            self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if queue.state == State::Ended {
            return Poll::Ready(queue.trailers.take().map(|all| Ok(Frame::trailers(all))));
        }
        queue.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn is_end_stream(&self) -> bool {
        // A body of a known length has no trailers, and the HTTP library asks for nothing after its last byte.
        if self.left == Some(0) {
            return true;
        }
        let queue = lock(&self.queue);
        queue.state == State::Ended && queue.segments.is_empty() && queue.trailers.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The copy is over.
impl Drop for CopyBody {
    fn drop(&mut self) {
        let mut queue = lock(&self.queue);
        queue.end(State::Over);
        queue.forget();
    }
}

/// Whether the body of a copy broke off. The HTTP library does not ask for it while the mirror reads nothing.
pub(super) struct Loss(Arc<Mutex<Queue>>);

impl Loss {
    /// Waits until it has broken off.
    pub(super) async fn wait(&self) -> CopyLost {
        poll_fn(|cx| {
            let mut queue = lock(&self.0);
            if let State::Lost(lost) = queue.state {
                return Poll::Ready(lost);
            }
            queue.watching = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}
