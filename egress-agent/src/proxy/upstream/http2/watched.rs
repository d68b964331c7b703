//! The origin's stream below the HTTP/2 library: an origin that breaks a bound loses its connection.
//!
//! `frame_watch` looks into the bytes.

use crate::proxy::client::Client;
use crate::proxy::frame_watch::FrameWatch;
use crate::proxy::stream::end_of_writes;
use crate::proxy::upstream::stream::Stream;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module.
pub(super) struct Watched {
    stream: Stream,
    watch: FrameWatch,
}

impl Watched {
    /// `list`: bytes of the largest list of fields.
    pub(super) fn new(stream: Stream, client: &Client, list: usize) -> Self {
        let watch = FrameWatch::of_origin(client, list);
        Self { stream, watch }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let checked = this.watch.received(&buffer.filled()[before..]);
        Poll::Ready(checked.map_err(|unruly| io::Error::new(io::ErrorKind::InvalidData, unruly)))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.watch.sent(&bytes[..count]);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices))?;
        self.watch.sent_vectored(slices, count);
        Poll::Ready(Ok(count))
    }

    end_of_writes!();
}
