//! The client's stream: first the bytes that were read ahead, then the socket. Counts bytes.
//!
//! It judges nothing. Bytes after a TLS hello pass `guard`.

use super::ahead::Ahead;
use super::guard::Guard;
use super::observe::DenialReason;
use super::short_write::poll_write_slices;
use super::ticket::Counters;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The most bytes of one read. hyper starts with a buffer of 8 KiB, doubles it when a read fills it, and keeps it
/// for the life of the connection. With one byte less it never grows.
pub(super) const NARROW: usize = 8 * 1024 - 1;
/// The same if there is memory for it: large reads make long bodies cheaper.
const WIDE: usize = 16 * 1024;
/// Blocks of memory that such reads take: hyper's buffer grows to 56 KiB.
pub(super) const WIDER: usize = 16;
/// The length of a body from which larger reads are worth it.
pub(super) const LONG: usize = 32 * 1024;

/// Reads at most `most` bytes.
pub(super) fn poll_part(
    stream: &mut (impl AsyncRead + Unpin),
    cx: &mut Context<'_>,
    buffer: &mut ReadBuf<'_>,
    most: usize,
) -> Poll<io::Result<()>> {
    let mut part = buffer.take(most);
    ready!(Pin::new(stream).poll_read(cx, &mut part))?;
    let count = part.filled().len();
    // SAFETY: `part` is the start of the unfilled part of `buffer`, and `count` bytes of it are filled. Zeroing
    // them first would make a page of each idle buffer resident.
    unsafe { buffer.assume_init(count) };
    buffer.advance(count);
    Poll::Ready(Ok(()))
}

/// The methods that a stream passes on to the socket in its field `stream`.
macro_rules! end_of_writes {
    () => {
        fn is_write_vectored(&self) -> bool {
            self.stream.is_write_vectored()
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    };
}
pub(super) use end_of_writes;

/// The client's stream: first what was read ahead, then the socket.
pub(super) struct Rewound {
    ahead: Ahead,
    given: usize,
    stream: TcpStream,
    counters: Arc<Counters>,
    guard: Option<Box<Guard>>,
    /// There is memory for large reads.
    pub(super) wide: bool,
}

impl Rewound {
    pub(super) fn new(ahead: Ahead, stream: TcpStream) -> Self {
        Self {
            ahead,
            given: 0,
            stream,
            counters: Arc::default(),
            guard: None,
            wide: false,
        }
    }

    /// The stream of a TLS connection of which `hello` was read and `guard` holds what follows.
    pub(super) fn guarded(hello: Ahead, guard: Guard, stream: TcpStream) -> Self {
        let mut new = Self::new(hello, stream);
        new.guard = Some(Box::new(guard));
        new
    }

    /// Why the guard denies the connection.
    pub(super) fn denied(&mut self) -> Option<DenialReason> {
        self.guard.as_mut()?.denied()
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// The socket, if nothing that was read ahead is left and no guard has to see the bytes any more.
    pub(super) fn bare(&self) -> Option<&TcpStream> {
        let all = self.ahead.is_empty() && self.guard.is_none();
        all.then_some(&self.stream)
    }

    /// Counts bytes of the client that were not read from here.
    pub(super) fn count_received(&self, bytes: usize) {
        let received = &self.counters.received;
        received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes to the client that were not written from here.
    pub(super) fn count_sent(&self, bytes: usize) {
        self.counters
            .sent
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.given < self.ahead.len() {
            let take = buffer.remaining().min(self.ahead.len() - self.given);
            buffer.put_slice(&self.ahead[self.given..self.given + take]);
            self.given += take;
            if self.given == self.ahead.len() {
                self.ahead = Ahead::default();
                self.given = 0;
            }
        } else {
            let this = &mut *self;
            if let Some(guard) = &mut this.guard {
                ready!(guard.poll_read(&mut this.stream, cx, buffer))?;
                if guard.is_over() {
                    this.guard = None;
                }
            } else {
                let most = if this.wide { WIDE } else { NARROW };
                ready!(poll_part(&mut this.stream, cx, buffer, most))?;
            }
        }
        self.count_received(buffer.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        if let Some(guard) = &mut self.guard {
            guard.server(&bytes[..count]);
        }
        self.count_sent(count);
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(poll_write_slices(&mut self.stream, cx, slices))?;
        if let Some(guard) = &mut self.guard {
            let mut left = count;
            for slice in slices {
                let written = left.min(slice.len());
                guard.server(&slice[..written]);
                left -= written;
            }
        }
        self.count_sent(count);
        Poll::Ready(Ok(count))
    }

    end_of_writes!();
}
