//! The two directions of a stream that carries a websocket (RFC 8441), as bytes.
//!
//! It opens no stream.

use crate::proxy::message_body::StreamBody;
use bytes::{Buf as _, Bytes};
use h2::{Reason, SendStream};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module. Dropping it resets the stream, unless both directions have ended.
pub(in crate::proxy) struct Duplex {
    to: SendStream<Bytes>,
    from: StreamBody,
    /// Bytes of a frame that the reader had no room for.
    rest: Bytes,
}

impl Duplex {
    pub(super) fn new(to: SendStream<Bytes>, from: StreamBody) -> Self {
        Self {
            to,
            from,
            rest: Bytes::new(),
        }
    }
}

impl AsyncRead for Duplex {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            let Some(frame) = ready!(self.from.poll_next(cx)).transpose().map_err(lost)? else {
                return Poll::Ready(Ok(()));
            };
            // Trailers have no place in a websocket.
            self.rest = frame.into_data().unwrap_or_default();
        }
        let count = self.rest.len().min(into.remaining());
        into.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.to.reserve_capacity(bytes.len());
        let mut room = self.to.capacity();
        while room == 0 {
            room = match ready!(self.to.poll_capacity(cx)) {
                Some(room) => room.map_err(lost)?,
                None => return Poll::Ready(Err(lost(Reason::CANCEL.into()))),
            };
        }
        let count = room.min(bytes.len());
        let part = Bytes::copy_from_slice(&bytes[..count]);
        self.to.send_data(part, false).map_err(lost)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.to.send_data(Bytes::new(), true).map_err(lost))
    }
}

fn lost(error: h2::Error) -> io::Error {
    io::Error::other(error)
}
