//! The client's socket below the HTTP/2 library: the library gets one read at a time, so that the streams of one read
//! are served or denied before the next ones are decoded, and nothing of a client that breaks a bound.
//!
//! `frame_watch` looks into the bytes.

use crate::proxy::frame_watch::{FrameWatch, Unruly};
use crate::proxy::stream::Rewound;
use crate::proxy::watched::Watched;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a client has to read the last frames, and how many bytes of it are read meanwhile: closing with unread bytes
/// would reset the connection, and the client would lose the frames.
pub(super) const LAST: Duration = Duration::from_secs(1);
const LAST_BYTES: usize = 1024 * 1024;
/// Bytes that are read at a time then.
const LAST_READ: usize = 4096;

/// What the connection and its socket say to each other. Both are polled by one task.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// The library has had its read.
    paused: AtomicBool,
    /// The socket takes no more bytes.
    blocked: AtomicBool,
    unruly: OnceLock<Unruly>,
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

    /// The bound that the client has broken. Nothing more is read from it.
    pub(super) fn unruly(&self) -> Option<Unruly> {
        self.unruly.get().copied()
    }
}

/// See the module.
pub(super) struct Paced {
    stream: Watched<Rewound>,
    pace: Arc<Pace>,
    /// How long a client may take for one list of fields, and the end of that time.
    head: Duration,
    late: Option<Pin<Box<Sleep>>>,
    /// What is still read after the last frame.
    last: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Paced {
    pub(super) fn new(stream: Rewound, watch: FrameWatch, head: Duration) -> (Self, Arc<Pace>) {
        let pace = Arc::<Pace>::default();
        let paced = Self {
            stream: Watched { stream, watch },
            pace: Arc::clone(&pace),
            head,
            late: None,
            last: None,
        };
        (paced, pace)
    }

    fn note<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.pace
            .blocked
            .store(polled.is_pending(), Ordering::Relaxed);
        polled
    }

    /// Sets or ends the time limit of a list of fields that is not whole.
    fn limit(&mut self, was_open: bool) {
        if !self.stream.watch.in_block() {
            self.late = None;
        } else if !was_open || self.late.is_none() {
            self.late = Some(Box::pin(sleep(self.head)));
        }
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let late = self.late.as_mut();
        late.is_some_and(|late| late.as_mut().poll(cx).is_ready())
    }

    /// Reads on after the last frame.
    fn poll_last(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begin = || (Box::pin(sleep(LAST)), LAST_BYTES);
        let (late, left) = self.last.get_or_insert_with(begin);
        let mut bytes = [0; LAST_READ];
        while *left > 0 && late.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut self.stream.stream).poll_read(cx, &mut buffer));
            let count = buffer.filled().len();
            if read.is_err() || count == 0 {
                break;
            }
            *left = left.saturating_sub(count);
        }
        Poll::Ready(())
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Whoever polls the library calls `resume` before it waits, and looks for `unruly` after it.
        if this.pace.paused.load(Ordering::Relaxed) || this.pace.unruly().is_some() {
            return Poll::Pending;
        }
        let was_open = this.stream.watch.in_block();
        let checked = match this.stream.poll_checked(cx, buffer)? {
            Poll::Pending if this.is_late(cx) => Err(Unruly::Unfinished),
            Poll::Pending => return Poll::Pending,
            Poll::Ready(checked) => checked,
        };
        if let Err(unruly) = checked {
            this.pace.unruly.get_or_init(|| unruly);
            return Poll::Pending;
        }
        this.limit(was_open);
        this.pace.paused.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
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

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.last.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        }
        self.poll_last(cx).map(Ok)
    }
}
