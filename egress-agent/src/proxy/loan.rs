//! A stream that is lent to the HTTP library and comes back when the library's connection is dropped. An idle
//! connection so gives up the library's buffers and its last header map.
//!
//! It adds nothing to the bytes.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Where a lent stream comes back to.
#[derive(Debug)]
pub(super) struct Home<T>(Arc<Mutex<Option<T>>>);

/// A lent stream.
#[derive(Debug)]
pub(super) struct Loan<T> {
    /// Taken out in `drop` only.
    lent: Option<T>,
    home: Home<T>,
}

impl<T> Home<T> {
    fn place(&self) -> MutexGuard<'_, Option<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has come back.
    pub(super) fn take(&self) -> Option<T> {
        self.place().take()
    }
}

impl<T> Loan<T> {
    pub(super) fn new(stream: T) -> (Self, Home<T>) {
        let home = Arc::default();
        let loan = Self {
            lent: Some(stream),
            home: Home(Arc::clone(&home)),
        };
        (loan, Home(home))
    }

    fn stream(&mut self) -> io::Result<Pin<&mut T>>
    where
        T: Unpin,
    {
        let lent = self.lent.as_mut();
        lent.map(Pin::new)
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<T> Drop for Loan<T> {
    fn drop(&mut self) {
        *self.home.place() = self.lent.take();
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Loan<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Loan<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.lent
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}
