//! The body of a request on its way upstream: counted and streamed, with the time at which the
//! request ended.
//!
//! It does not know the destination.

use super::message_body::{BodyError, MessageBody};
use crate::proxy::ticket::Counters;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{self, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use tokio::sync::Notify;
use tokio::time::Instant;

/// How the request ended: the time at which it was complete, from which a route's timeout counts, or that its body
/// broke the protocol.
#[derive(Debug, Default)]
pub(super) struct RequestEnd {
    at: OnceLock<Instant>,
    broken: AtomicBool,
    wake: Notify,
}

impl RequestEnd {
    pub(super) fn at(&self) -> Option<Instant> {
        self.at.get().copied()
    }

    fn mark(&self) {
        if self.at.set(Instant::now()).is_ok() {
            self.wake.notify_waiters();
        }
    }

    pub(super) async fn wait(&self) -> Instant {
        loop {
            let woken = self.wake.notified();
            if let Some(at) = self.at() {
                return at;
            }
            woken.await;
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Waits until the body breaks the protocol.
    pub(super) async fn broken(&self) {
        loop {
            let woken = self.wake.notified();
            if self.is_broken() {
                return;
            }
            woken.await;
        }
    }

    fn mark_broken(&self) {
        self.broken.store(true, Ordering::Release);
        self.wake.notify_waiters();
    }
}

/// The most bytes of a request body that are read before the upstream connection exists.
const AHEAD: usize = 16 * 1024;

/// A request body on its way upstream.
pub(super) struct RequestBody {
    /// What was read ahead.
    ahead: VecDeque<Result<Frame<Bytes>, BodyError>>,
    ahead_bytes: usize,
    /// `None` if nothing is left to read, as in the replay of a request without a body.
    inner: Option<MessageBody>,
    /// The client gave a length. A chunked body stays chunked even if all of it was read ahead.
    sized: bool,
    end: Arc<RequestEnd>,
    counters: Arc<Counters>,
}

impl RequestBody {
    pub(super) fn new(
        inner: Option<MessageBody>,
        end: Arc<RequestEnd>,
        counters: Arc<Counters>,
    ) -> Self {
        if inner.as_ref().is_none_or(Body::is_end_stream) {
            end.mark();
        }
        let sized = inner
            .as_ref()
            .is_none_or(|inner| inner.size_hint().exact().is_some());
        Self {
            sized,
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            inner,
            end,
            counters,
        }
    }

    /// The body for a second try of a request without a body.
    pub(super) fn replay(&self) -> Self {
        Self::new(None, Arc::clone(&self.end), Arc::clone(&self.counters))
    }

    /// Reads ahead, within limits, as long as it is polled: the route's timeout starts at the end of the request, which
    /// must be seen even before the body is taken.
    pub(super) async fn read_ahead(&mut self) -> Infallible {
        while self.ahead_bytes < AHEAD {
            let Some(frame) = poll_fn(|cx| self.poll_inner(cx)).await else {
                break;
            };
            self.ahead_bytes += frame
                .as_ref()
                .ok()
                .and_then(Frame::data_ref)
                .map_or(0, Bytes::len);
            let failed = frame.is_err();
            self.ahead.push_back(frame);
            if failed {
                break;
            }
        }
        future::pending().await
    }

    fn poll_inner(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(inner) = self.inner.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = ready!(Pin::new(&mut *inner).poll_frame(cx));
        if let Some(Ok(frame)) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.counters
                .received
                .fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        if let Some(Err(error)) = &polled {
            if error.broke_protocol() {
                self.end.mark_broken();
            }
        } else if polled.is_none() || inner.is_end_stream() {
            self.inner = None;
            self.end.mark();
        }
        Poll::Ready(polled)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.ahead.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => self.poll_inner(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        if !self.sized {
            return SizeHint::default();
        }
        let data = self
            .ahead
            .iter()
            .filter_map(|frame| frame.as_ref().ok()?.data_ref());
        let ahead: u64 = data.map(|data| data.len() as u64).sum();
        let rest = self
            .inner
            .as_ref()
            .and_then(|inner| inner.size_hint().exact());
        SizeHint::with_exact(ahead.saturating_add(rest.unwrap_or(0)))
    }
}
