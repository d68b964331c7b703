//! The client's socket below the HTTP/2 library: the library gets one read at a time, so that the streams of one read
//! are served or denied before the next ones are decoded.
//!
//! It does not look into the bytes.

use crate::proxy::stream::{Rewound, end_of_writes};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What the connection and its socket say to each other. Both are polled by one task.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The library has had its read.
    paused: AtomicBool,
    /// The socket takes no more bytes.
    blocked: AtomicBool,
}

impl Pace {
    /// Allows the next read. False if there was none since the last call.
    pub(super) fn resume(&self) -> bool {
        self.paused.swap(false, Ordering::Relaxed)
    }

    /// Whether bytes wait for the client to read.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed)
    }
}

/// See the module.
pub(super) struct Paced {
    stream: Rewound,
    pace: Arc<Pace>,
}

impl Paced {
    pub(super) fn new(stream: Rewound) -> (Self, Arc<Pace>) {
        let pace = Arc::<Pace>::default();
        let paced = Self {
            stream,
            pace: Arc::clone(&pace),
        };
        (paced, pace)
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever polls the library calls `resume` before it waits.
        if this.pace.paused.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        this.pace.paused.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl Paced {
    fn note<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.pace
            .blocked
            .store(polled.is_pending(), Ordering::Relaxed);
        polled
    }
}

impl AsyncWrite for Paced {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.note(written)
    }

    end_of_writes!();
}
