//! The body of a response on its way to the client: counted and streamed, within the memory of the client's workload.
//!
//! It makes no response and reads no head.

use super::control::Control;
use super::request_body::{RequestBody, RequestEnd};
use crate::proxy::client::Client;
use crate::proxy::message_body::{BodyError, MessageBody};
use crate::proxy::places::{BLOCK, Place};
use crate::proxy::stream::LONG;
use crate::proxy::ticket::Ticket;
use crate::proxy::upstream::carrier::Carrier;
use crate::proxy::upstream::pool::Pool;
use bytes::Bytes;
use egress_core::http::response_flags::ResponseFlag;
use hyper::body::{Body, Frame, SizeHint};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

/// Why a response was broken off after it had begun.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplyError {
    #[error("the route's timeout passed after the response had begun")]
    Timeout,
    #[error("the upstream broke off its response: {0}")]
    Upstream(BodyError),
    #[error("the request broke the protocol after the response had begun")]
    Request,
}

/// A response body on its way to the client. It signals when the library has taken all of it.
pub(super) struct Reply {
    body: ReplyBody,
    queue: Queue,
    /// It broke off before its head was written. The library must write that first.
    failed: Option<ReplyError>,
}

impl Reply {
    pub(super) fn new(body: ReplyBody, control: Arc<Control>, client: Client) -> Self {
        let room = None;
        let queue = Queue {
            control,
            client,
            room,
        };
        let failed = None;
        Self {
            body,
            queue,
            failed,
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.queue.control.replied();
    }
}

/// Bytes of a response that may wait for a slow client if its workload has spare memory. One frame may always wait.
const QUEUE: usize = 64 * 1024;

/// The part of a body that the library has not yet written to the client's socket.
struct Queue {
    control: Arc<Control>,
    client: Client,
    /// For [`QUEUE`].
    room: Option<Place>,
}

impl Queue {
    /// Whether the library may get the next frame.
    fn has_room(&mut self) -> bool {
        let queued = self.control.queued();
        if queued > 0 && self.room.is_none() {
            let memory = &self.client.shared.memory;
            self.room = memory.spare(self.client.share(), QUEUE / BLOCK);
        }
        let has_room = queued < self.room.as_ref().map_or(1, |_| QUEUE);
        if !has_room {
            self.control.full();
        }
        has_room
    }
}

/// The source of a response body.
pub(super) enum ReplyBody {
    /// The proxy's own.
    Local(Option<Bytes>),
    /// The upstream's.
    Upstream(Box<Relay>),
}

impl ReplyBody {
    /// Bytes of the proxy's own.
    pub(super) fn local_length(&self) -> u64 {
        match self {
            Self::Local(body) => body.as_ref().map_or(0, |bytes| bytes.len() as u64),
            Self::Upstream(_) => 0,
        }
    }

    /// The record of the exchange that goes on.
    pub(super) fn ticket(&mut self) -> Option<&mut Ticket> {
        match self {
            Self::Local(_) => None,
            Self::Upstream(relay) => Some(&mut relay.ticket),
        }
    }

    fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// Nothing is left, not even trailers.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Local(body) => body.is_none(),
            Self::Upstream(relay) => relay.inner.is_end_stream(),
        }
    }

    /// Ends the exchange where the route's timeout has passed.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Local(_) => false,
            Self::Upstream(relay) => relay.is_late(cx),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        match self {
            Self::Local(body) => Poll::Ready(body.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Upstream(relay) => relay.poll(cx),
        }
    }

    /// The next frame, for a client that takes it at once.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        if self.is_late(cx) {
            return Poll::Ready(Some(Err(ReplyError::Timeout)));
        }
        self.poll(cx)
    }
}

/// The upstream's response body, with everything that must end with it.
pub(super) struct Relay {
    pub(super) inner: MessageBody,
    pub(super) ticket: Ticket,
    pub(super) end: Arc<RequestEnd>,
    /// Fires when the route's timeout has passed.
    pub(super) deadline: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Dropping it closes the connection; it goes back to the pool after a whole exchange.
    pub(super) upstream: Option<Carrier<RequestBody>>,
    pub(super) pool: Arc<Pool<RequestBody>>,
}

impl Relay {
    pub(super) fn into_body(mut self) -> ReplyBody {
        if self.inner.is_end_stream() {
            self.finish();
        }
        ReplyBody::Upstream(Box::new(self))
    }

    fn finish(&mut self) {
        self.ticket.done();
        self.deadline = None;
        // An upstream that answered before the end of the request is in the middle of that request.
        if let Some(upstream) = self.upstream.take()
            && self.end.at().is_some()
        {
            upstream.keep(&self.pool, self.ticket.client());
        }
    }

    /// Ends the exchange where the route's timeout has passed.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let late = self
            .deadline
            .as_mut()
            .is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready());
        if late {
            self.ticket.flag(ResponseFlag::UT);
            self.ticket.record.details = "response_timeout".into();
            self.upstream = None;
            self.deadline = None;
        }
        late
    }

    fn count(&mut self, bytes: usize) {
        let sent = &self.ticket.counters.sent;
        let sent = bytes as u64 + sent.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(upstream) = &mut self.upstream
            && sent >= LONG as u64
        {
            upstream.widen(self.ticket.client());
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    self.count(data.len());
                }
                // Nothing polls after the trailers.
                if frame.is_trailers() || self.inner.is_end_stream() {
                    self.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.upstream = None;
                let (flag, details, error) = if self.end.is_broken() {
                    let details = "http1.codec_error";
                    (ResponseFlag::DPE, details, ReplyError::Request)
                } else if error.broke_protocol() || error.is_http1() {
                    // As in Envoy, a response of HTTP/1.1 that ends early breaks the protocol.
                    let details = "upstream_reset_after_response_started{protocol_error}";
                    (ResponseFlag::UPE, details, ReplyError::Upstream(error))
                } else if error.is_reset() {
                    let details = "upstream_reset_after_response_started{remote_reset}";
                    (ResponseFlag::UR, details, ReplyError::Upstream(error))
                } else {
                    let details = "upstream_reset_after_response_started{connection_termination}";
                    (ResponseFlag::UC, details, ReplyError::Upstream(error))
                };
                self.ticket.flag(flag);
                self.ticket.record.details = details.into();
                Poll::Ready(Some(Err(error)))
            }
            None => {
                self.finish();
                Poll::Ready(None)
            }
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = ReplyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReplyError>>> {
        let this = self.get_mut();
        let control = &this.queue.control;
        if this.failed.is_some() && control.has_begun() {
            return Poll::Ready(this.failed.take().map(Err));
        }
        if this.failed.is_none() && this.body.is_late(cx) {
            return Poll::Ready(Some(Err(ReplyError::Timeout)));
        }
        if this.failed.is_some() || !this.body.is_local() && !this.queue.has_room() {
            return Poll::Pending;
        }
        let frame = match this.body.poll(cx) {
            Poll::Ready(Some(Err(error))) if !this.queue.control.has_begun() => {
                this.queue.control.full();
                this.failed = Some(error);
                return Poll::Pending;
            }
            frame => frame,
        };
        if !this.body.is_local()
            && let Poll::Ready(Some(Ok(frame))) = &frame
        {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            this.queue.control.queue(bytes);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            local @ ReplyBody::Local(_) => SizeHint::with_exact(local.local_length()),
            ReplyBody::Upstream(relay) => relay.inner.size_hint(),
        }
    }
}
