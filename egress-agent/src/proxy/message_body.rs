//! The body of a message as it arrives, over HTTP/1.1 or HTTP/2.
//!
//! It counts nothing and keeps nothing: a byte that is not asked for stays with the sender.

use super::copy_body::{CopyBody, CopyLost};
use bytes::Bytes;
use h2::RecvStream;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// See the module.
pub(super) enum MessageBody {
    Http1(Incoming),
    Http2(StreamBody),
    /// Of the copy of a request.
    Copy(CopyBody),
}

/// Why a body broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    #[error(transparent)]
    Http2(#[from] h2::Error),
    #[error(transparent)]
    Copy(#[from] CopyLost),
}

impl BodyError {
    /// Whether the body was one of HTTP/1.1.
    pub(super) fn is_http1(&self) -> bool {
        matches!(self, Self::Http1(_))
    }

    /// Whether the peer broke the protocol. Otherwise the connection was lost, or the peer gave the stream up.
    pub(super) fn broke_protocol(&self) -> bool {
        match self {
            Self::Http1(error) => broke_protocol(error),
            // The library has found it. What it only reports, the peer did.
            Self::Http2(error) => error.is_library(),
            Self::Copy(_) => false,
        }
    }

    /// Whether the peer reset the stream.
    pub(super) fn is_reset(&self) -> bool {
        matches!(self, Self::Http2(error) if error.is_reset())
    }
}

/// The same for an error of an HTTP/1.1 connection.
pub(super) fn broke_protocol(error: &hyper::Error) -> bool {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return matches!(
                error.kind(),
                io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput
            );
        }
        source = error.source();
    }
    error.is_parse()
}

/// The body of an HTTP/2 stream.
pub(super) struct StreamBody {
    stream: RecvStream,
    /// Bytes that are still to come, if the sender gave a length.
    left: Option<u64>,
    /// Only trailers may follow.
    over: bool,
}

impl StreamBody {
    /// `length`: of `content-length`, if there is one.
    pub(super) fn new(stream: RecvStream, length: Option<u64>) -> Self {
        Self {
            stream,
            left: length,
            over: false,
        }
    }

    /// The next frame.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The bytes move on, so the sender may send as many more.
                    self.stream.flow_control().release_capacity(data.len())?;
                    let count = data.len() as u64;
                    self.left = self.left.map(|left| left.saturating_sub(count));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.over = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx))?;
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Body for MessageBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::from))),
            Self::Http2(body) => body
                .poll_next(cx)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::from))),
            Self::Copy(body) => body
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::from))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.stream.is_end_stream(),
            Self::Copy(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Copy(body) => body.size_hint(),
            Self::Http2(body) if body.stream.is_end_stream() => SizeHint::with_exact(0),
            Self::Http2(body) => body
                .left
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
