//! The body of a request on its way upstream: counted and streamed to one attempt after the other, with the time at
//! which the request ended.
//!
//! It does not know the destination. `kept` holds what a further attempt needs.

use super::kept::Kept;
use crate::lock::lock;
use crate::proxy::client::Client;
use crate::proxy::copy_body::Feed;
use crate::proxy::message_body::{BodyError, MessageBody};
use crate::proxy::ticket::Counters;
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::{self, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

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

/// Fires when the timeout has passed since the end of the request. Never fires without a timeout.
pub(super) fn deadline(
    timeout: Option<Duration>,
    end: Arc<RequestEnd>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    match timeout {
        Some(timeout) => Box::pin(async move {
            let ended: Instant = end.wait().await;
            sleep_until(ended + timeout).await;
        }),
        None => Box::pin(future::pending()),
    }
}

/// The most bytes of a request body that are read while no attempt takes them.
const AHEAD: usize = 16 * 1024;
/// What a frame of the body takes besides its bytes.
const FRAME: usize = 128;

/// The body of one request, for all its attempts. `None` without a body.
#[derive(Clone)]
pub(super) struct RequestSource(Option<Arc<Mutex<Source>>>);

struct Source {
    /// `None` at its end.
    inner: Option<MessageBody>,
    /// What was read and not given to an attempt.
    ahead: VecDeque<Result<Frame<Bytes>, BodyError>>,
    ahead_bytes: usize,
    /// What was given to attempts.
    kept: Kept,
    /// Copies for mirrors, which get what is read.
    copies: Vec<Feed>,
    /// Counts attempts. Only the last one gets bytes.
    attempt: u32,
    /// The client gave a length. A chunked body stays chunked even if all of it was read ahead.
    sized: bool,
    end: Arc<RequestEnd>,
    counters: Arc<Counters>,
}

impl RequestSource {
    /// `keep`: what is sent is kept for a further attempt, within the memory of the client's workload.
    pub(super) fn new(
        inner: Option<MessageBody>,
        end: &Arc<RequestEnd>,
        counters: &Arc<Counters>,
        keep: Option<&Client>,
        copies: Vec<Feed>,
    ) -> Self {
        let Some(inner) = inner.filter(|inner| !inner.is_end_stream()) else {
            end.mark();
            return Self(None);
        };
        let source = Source {
            sized: inner.size_hint().exact().is_some(),
            inner: Some(inner),
            ahead: VecDeque::new(),
            ahead_bytes: 0,
            kept: Kept::new(keep),
            copies,
            attempt: 0,
            end: Arc::clone(end),
            counters: Arc::clone(counters),
        };
        Self(Some(Arc::new(Mutex::new(source))))
    }

    /// Whether there is no body.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether everything that was sent is kept, so that it can be sent again.
    pub(super) fn is_whole(&self) -> bool {
        self.0
            .as_deref()
            .is_none_or(|shared| !lock(shared).kept.is_lost())
    }

    /// The body for the next attempt, from its first byte. `None` if a part of it was sent and not kept.
    pub(super) fn body(&self) -> Option<RequestBody> {
        let Some(shared) = &self.0 else {
            return Some(RequestBody::default());
        };
        let mut source = lock(shared);
        let replay = source.kept.replay()?;
        source.attempt += 1;
        Some(RequestBody {
            attempt: source.attempt,
            replay,
            source: Some(Arc::clone(shared)),
        })
    }

    /// Reads ahead, within limits, as long as it is polled: the route's timeout starts at the end of the request, which
    /// must be seen even while no attempt takes the body.
    pub(super) async fn read_ahead(&self) -> Infallible {
        if let Some(shared) = &self.0 {
            poll_fn(|cx| lock(shared).poll_ahead(cx)).await;
        }
        future::pending().await
    }
}

impl Source {
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.ahead_bytes < AHEAD {
            let Some(frame) = ready!(self.poll_inner(cx)) else {
                break;
            };
            self.ahead_bytes += FRAME + frame.as_ref().map_or(0, length);
            let failed = frame.is_err();
            self.ahead.push_back(frame);
            if failed {
                break;
            }
        }
        Poll::Ready(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let next = match self.ahead.pop_front() {
            Some(frame) => {
                self.ahead_bytes -= FRAME + frame.as_ref().map_or(0, length);
                Some(frame)
            }
            None => ready!(self.poll_inner(cx)),
        };
        if let Some(Ok(frame)) = &next {
            self.kept.keep(frame);
        }
        Poll::Ready(next)
    }

    fn poll_inner(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(inner) = self.inner.as_mut() else {
            return Poll::Ready(None);
        };
        let polled = ready!(Pin::new(&mut *inner).poll_frame(cx));
        if let Some(Ok(frame)) = &polled {
            self.counters
                .received
                .fetch_add(length(frame) as u64, Ordering::Relaxed);
            self.copies.iter().for_each(|copy| copy.frame(frame));
        }
        // Nothing polls after the trailers.
        let trailers = matches!(&polled, Some(Ok(frame)) if frame.is_trailers());
        if let Some(Err(error)) = &polled {
            if error.broke_protocol() {
                self.end.mark_broken();
            }
        } else if trailers || polled.is_none() || inner.is_end_stream() {
            self.inner = None;
            self.end.mark();
            self.copies.drain(..).for_each(|copy| copy.end());
        }
        Poll::Ready(polled)
    }
}

/// Bytes of a frame.
fn length(frame: &Frame<Bytes>) -> usize {
    frame.data_ref().map_or(0, Bytes::len)
}

/// The body of one attempt. The default is that of a request without one.
#[derive(Default)]
pub(super) struct RequestBody {
    attempt: u32,
    /// What earlier attempts got.
    replay: VecDeque<Frame<Bytes>>,
    source: Option<Arc<Mutex<Source>>>,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(frame) = self.replay.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        let Some(shared) = &self.source else {
            return Poll::Ready(None);
        };
        let mut source = lock(shared);
        if source.attempt == self.attempt {
            return source.poll_next(cx);
        }
        // Its attempt is over, and its task about to end.
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        let ended = |source: &Mutex<Source>| {
            let source = lock(source);
            // A chunked body stays one if it is empty.
            source.sized
                && source.ahead.is_empty()
                && source.inner.as_ref().is_none_or(Body::is_end_stream)
        };
        self.replay.is_empty() && self.source.as_deref().is_none_or(ended)
    }

    fn size_hint(&self) -> SizeHint {
        let Some(shared) = &self.source else {
            return SizeHint::with_exact(0);
        };
        let source = lock(shared);
        if !source.sized {
            return SizeHint::default();
        }
        let ahead = source.ahead.iter().flatten().chain(&self.replay);
        let ahead: u64 = ahead.map(|frame| length(frame) as u64).sum();
        let inner = source.inner.as_ref();
        let rest = inner.and_then(|inner| inner.size_hint().exact());
        SizeHint::with_exact(ahead.saturating_add(rest.unwrap_or(0)))
    }
}
