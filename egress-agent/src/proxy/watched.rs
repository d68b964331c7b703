//! A stream below the HTTP/2 library: the bytes of a peer that breaks a bound do not reach the library.
//!
//! `frame_watch` looks into the bytes.

use super::frame_watch::{FrameWatch, Unruly};
use super::stream::end_of_writes;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// See the module.
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) watch: FrameWatch,
}

impl<S: AsyncRead + Unpin> Watched<S> {
    /// Reads bytes, unless the peer breaks a bound with them.
    pub(super) fn poll_checked(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<Result<(), Unruly>>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let checked = self.watch.received(&buffer.filled()[before..]);
        if checked.is_err() {
            buffer.set_filled(before);
        }
        Poll::Ready(Ok(checked))
    }
}

/// A peer that breaks a bound loses its connection.
impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let checked = ready!(self.get_mut().poll_checked(cx, buffer))?;
        Poll::Ready(checked.map_err(|unruly| io::Error::new(io::ErrorKind::InvalidData, unruly)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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
