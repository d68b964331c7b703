//! A tunnel in the bodies of an HTTP/1.1 request and its response: chunks to the proxy, and what its response's framing
//! says from it.
//!
//! It keeps one chunk at most.

use crate::proxy::upstream::stream::Stream;
use egress_core::traffic::Framing;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most bytes of one chunk.
const CHUNK: usize = 16 * 1024;
/// The longest line of a chunk's size, and of a trailer.
const LINE: usize = 1024;

/// See the module.
pub(super) struct Chunks {
    stream: Stream,
    from: From,
    /// What the socket has not taken yet.
    pending: Vec<u8>,
    written: usize,
    /// The last chunk was made.
    ended: bool,
}

/// What comes next from the proxy.
enum From {
    /// So many bytes of the tunnel.
    Data {
        left: u64,
        chunked: bool,
    },
    /// A line: the size of a chunk, the end of one (`is_end`), or a trailer.
    Line {
        text: Vec<u8>,
        is_end: bool,
        is_trailer: bool,
    },
    /// All bytes until the connection ends.
    Rest,
    End,
}

impl Chunks {
    pub(super) fn new(stream: Stream, framing: Framing) -> Self {
        let from = match framing {
            Framing::None => From::Rest,
            Framing::Length(left) => From::Data {
                left,
                chunked: false,
            },
            Framing::Chunked => From::size(),
        };
        Self {
            stream,
            from,
            pending: Vec::new(),
            written: 0,
            ended: false,
        }
    }

    /// Writes what is pending.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.pending.len() {
            let rest = &self.pending[self.written..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.pending.clear();
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Reads one line. The bytes between two chunks are few, so each is read by itself.
    fn poll_line(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let From::Line {
            text,
            is_end,
            is_trailer,
        } = &mut self.from
        else {
            return Poll::Ready(Ok(()));
        };
        while !text.ends_with(b"\r\n") {
            let mut byte = [0];
            let mut buffer = ReadBuf::new(&mut byte);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
            if buffer.filled().is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if text.len() >= LINE {
                return Poll::Ready(Err(malformed()));
            }
            text.extend_from_slice(buffer.filled());
        }
        let line = &text[..text.len() - 2];
        self.from = match (*is_end, *is_trailer, line.is_empty()) {
            (true, _, true) => From::size(),
            (true, _, false) => return Poll::Ready(Err(malformed())),
            (false, true, true) => From::End,
            (false, true, false) => From::line(false, true),
            (false, false, _) => match size_of(line).ok_or_else(malformed)? {
                0 => From::line(false, true),
                left => From::Data {
                    left,
                    chunked: true,
                },
            },
        };
        Poll::Ready(Ok(()))
    }
}

impl From {
    fn line(is_end: bool, is_trailer: bool) -> Self {
        Self::Line {
            text: Vec::new(),
            is_end,
            is_trailer,
        }
    }

    fn size() -> Self {
        Self::line(false, false)
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "malformed chunk")
}

/// The size of a chunk (RFC 9112 §7.1), whose extensions do not count.
fn size_of(line: &[u8]) -> Option<u64> {
    let digits = line.split(|byte| *byte == b';').next()?;
    let digits = std::str::from_utf8(digits).ok()?.trim_end();
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    is_number.then(|| u64::from_str_radix(digits, 16).ok())?
}

impl AsyncRead for Chunks {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.from {
                From::End => return Poll::Ready(Ok(())),
                From::Rest => return Pin::new(&mut this.stream).poll_read(cx, buffer),
                From::Line { .. } => ready!(this.poll_line(cx))?,
                From::Data { left: 0, chunked } => {
                    this.from = if *chunked {
                        From::line(true, false)
                    } else {
                        From::End
                    };
                }
                From::Data { left, .. } => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX);
                    let most = most.min(buffer.remaining());
                    let mut part = ReadBuf::new(buffer.initialize_unfilled_to(most));
                    ready!(Pin::new(&mut this.stream).poll_read(cx, &mut part))?;
                    let count = part.filled().len();
                    if count == 0 {
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    *left -= count as u64;
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Chunks {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        let part = &bytes[..bytes.len().min(CHUNK)];
        if part.is_empty() {
            return Poll::Ready(Ok(0));
        }
        this.pending = format!("{:x}\r\n", part.len()).into_bytes();
        this.pending.extend_from_slice(part);
        this.pending.extend_from_slice(b"\r\n");
        // What the socket does not take now is written before the next chunk.
        let _ = this.poll_drain(cx)?;
        Poll::Ready(Ok(part.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    /// Ends the request's body; its response goes on.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        if !this.ended {
            this.ended = true;
            this.pending = b"0\r\n\r\n".to_vec();
            ready!(this.poll_drain(cx))?;
        }
        Pin::new(&mut this.stream).poll_flush(cx)
    }
}
