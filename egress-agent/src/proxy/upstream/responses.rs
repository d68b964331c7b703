//! An upstream connection below the HTTP library: the head of each response is judged by
//! `egress_core::http::response_head` before the library reads it.
//!
//! Bytes pass unchanged. A rejected head ends the connection with an error.

use crate::proxy::stream::{NARROW, poll_part};
use egress_core::http::response_head::check_response;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What the connection's owner tells those who read it.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// A response is to begin.
    pub(super) expected: AtomicBool,
    /// There is memory for large reads.
    pub(super) wide: AtomicBool,
}

/// See the module.
pub(super) struct Responses {
    stream: TcpStream,
    reading: Arc<Reading>,
    /// The beginning of a head, or a whole one and what follows, on their way to the library.
    held: Vec<u8>,
    /// Bytes of `held` that may continue.
    passed: usize,
    ended: bool,
}

impl Responses {
    /// The next bytes are a response's. So are those after one was expected.
    pub(super) fn new(stream: TcpStream, reading: Arc<Reading>) -> Self {
        reading.expected.store(true, Ordering::Release);
        Self {
            stream,
            reading,
            held: Vec::new(),
            passed: 0,
            ended: false,
        }
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = self.passed.min(buffer.remaining());
        let rest = self.held.split_off(count);
        buffer.put_slice(&self.held);
        self.held = rest;
        self.passed -= count;
    }
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
            if this.passed > 0 {
                this.give(buffer);
                return Poll::Ready(Ok(()));
            }
            if !this.reading.expected.load(Ordering::Acquire) && this.held.is_empty() {
                return poll_part(&mut this.stream, cx, buffer, most);
            }
            match check_response(&this.held) {
                Ok(Some(head)) if head.interim => this.passed = head.length,
                Ok(Some(_)) => {
                    this.reading.expected.store(false, Ordering::Release);
                    this.passed = this.held.len();
                }
                // The library finds that its head is cut off.
                Ok(None) if this.ended => {
                    this.passed = this.held.len();
                    if this.passed == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                Ok(None) => {
                    let before = buffer.filled().len();
                    ready!(poll_part(&mut this.stream, cx, buffer, most))?;
                    this.held.extend_from_slice(&buffer.filled()[before..]);
                    this.ended = buffer.filled().len() == before;
                    buffer.set_filled(before);
                }
                Err(error) => {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
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

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
