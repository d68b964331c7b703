//! An upstream connection below the HTTP library: the head of each response is judged by
//! `egress_core::http::response_head` before the library reads it.
//!
//! Bytes pass unchanged. A rejected head ends the connection with an error.

use super::stream::Stream;
use crate::proxy::onward::Onward;
use crate::proxy::stream::{NARROW, end_of_writes, poll_part};
use egress_core::http::MAX_HEAD;
use egress_core::http::looks::Looks;
use egress_core::http::response_head::{ResponseError, ResponseHead, check_response};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Signals from the connection's owner to its readers.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// A response is expected.
    pub(super) expected: AtomicBool,
    /// There is memory for large reads.
    pub(super) wide: AtomicBool,
}

/// See the module.
pub(super) struct Responses {
    stream: Stream,
    reading: Arc<Reading>,
    /// A head that is not judged yet, and the bytes after it.
    held: Vec<u8>,
    looks: Looks,
    /// What the library may read.
    onward: Onward,
    ended: bool,
}

impl Responses {
    /// The first bytes belong to a response, and so do those after `expected` was set.
    pub(super) fn new(stream: Stream, reading: Arc<Reading>) -> Self {
        reading.expected.store(true, Ordering::Release);
        Self {
            stream,
            reading,
            held: Vec::new(),
            looks: Looks::default(),
            onward: Onward::default(),
            ended: false,
        }
    }

    /// Passes this many bytes to the library.
    fn pass(&mut self, count: usize) {
        self.looks = Looks::default();
        let rest = self.held.split_off(count);
        self.onward = Onward::new(std::mem::replace(&mut self.held, rest));
    }

    /// The stream, if the connection is between two responses. `None` in the middle of one, or if the origin ended.
    pub(super) fn into_stream(self) -> Option<Stream> {
        let is_between = self.held.is_empty() && self.onward.is_empty() && !self.ended;
        is_between.then_some(self.stream)
    }
}

fn invalid(error: ResponseError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl AsyncRead for Responses {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let wide = this.reading.wide.load(Ordering::Relaxed);
        let most = if wide { usize::MAX } else { NARROW };
        loop {
            if !this.onward.is_empty() {
                this.onward.give(buffer);
                return Poll::Ready(Ok(()));
            }
            if !this.reading.expected.load(Ordering::Acquire) && this.held.is_empty() {
                return poll_part(&mut this.stream, cx, buffer, most);
            }
            // At the end of the stream an unfinished head is parsed once more.
            let due = this.looks.is_due(&this.held, MAX_HEAD) || this.ended;
            let found = if due {
                check_response(&this.held)
            } else {
                Ok(None)
            };
            match found {
                Ok(Some(head)) if head.interim => this.pass(head.length),
                Ok(Some(_)) => {
                    this.reading.expected.store(false, Ordering::Release);
                    this.pass(this.held.len());
                }
                Ok(None) if this.ended && this.held.is_empty() => return Poll::Ready(Ok(())),
                Ok(None) if this.ended => return Poll::Ready(Err(invalid(ResponseError::CutOff))),
                Ok(None) => {
                    let before = buffer.filled().len();
                    ready!(poll_part(&mut this.stream, cx, buffer, most))?;
                    let fresh = &buffer.filled()[before..];
                    // Most heads come whole and need not be kept.
                    if this.held.is_empty()
                        && let Ok(Some(ResponseHead { interim: false, .. })) = check_response(fresh)
                    {
                        this.reading.expected.store(false, Ordering::Release);
                        return Poll::Ready(Ok(()));
                    }
                    this.held.extend_from_slice(fresh);
                    this.ended = buffer.filled().len() == before;
                    buffer.set_filled(before);
                }
                Err(error) => return Poll::Ready(Err(invalid(error))),
            }
        }
    }
}

impl AsyncWrite for Responses {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    end_of_writes!();
}
