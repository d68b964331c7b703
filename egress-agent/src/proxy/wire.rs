//! The client's connection below the HTTP library: gives it one request at a time, each head in the
//! canonical form that `egress_core::http::request_head` makes, and answers what it refuses.
//!
//! The next request is held back until the response before it is on the wire. So what is written
//! here beside the library, 1xx responses and refusals, stands in its place in the stream. It judges
//! no host and no route.

use super::control::{Asked, Control};
use super::flow::{Client, Counters, Rewound};
use super::places::Place;
use egress_core::http::chunked::{ChunkScanner, Scanned};
use egress_core::http::local_reply::LocalReply;
use egress_core::http::request_head::{Framing, HeadError, HeadOutcome, HeadReader};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long the client may go on sending after the proxy has ended its side: closing at once would
/// reset the connection, and the client would lose the response (Envoy's `delayed_close_timeout`).
const LINGER: Duration = Duration::from_secs(1);

/// Unfinished heads are counted in blocks of so many bytes; what is less is not counted.
pub(super) const BLOCK: usize = 4096;

/// Bytes that are read at once while the library has no buffer yet.
const ASIDE: usize = 4096;

/// See the module.
pub(super) struct Wire {
    stream: Rewound,
    client: Client,
    /// Room that the pending bytes take.
    room: Vec<Place>,
    control: Arc<Control>,
    reader: HeadReader,
    place: Next,
    /// A head on its way to the library.
    inward: Vec<u8>,
    given: usize,
    /// Bytes of the proxy's own on their way to the client.
    outward: Vec<u8>,
    sent: usize,
    ended: bool,
    linger: Option<Pin<Box<Sleep>>>,
}

/// What the next bytes of the client are.
enum Next {
    Head,
    Length(u64),
    Chunked(ChunkScanner),
    /// The body broke its coding.
    Broken,
    /// Of the next request, while this one is being answered.
    Held,
    /// Of no interest: the connection closes after a reply of the proxy's own.
    Refused,
    /// Of the protocol that the connection was switched to.
    Tunnel,
}

impl Wire {
    /// A connection whose heads `reader` reads.
    pub(super) fn new(
        client: Client,
        stream: Rewound,
        reader: HeadReader,
        control: Arc<Control>,
    ) -> Self {
        Self {
            stream,
            client,
            room: Vec::new(),
            control,
            reader,
            place: Next::Head,
            inward: Vec::new(),
            given: 0,
            outward: Vec::new(),
            sent: 0,
            ended: false,
            linger: None,
        }
    }

    pub(super) fn counters(&self) -> Arc<Counters> {
        self.stream.counters()
    }

    /// Takes the next head from what was read, if there is a whole one.
    fn next_head(&mut self) -> bool {
        match self.reader.next_head() {
            HeadOutcome::NeedMore => return false,
            HeadOutcome::Head(head) => {
                (self.inward, self.given) = (head.bytes, 0);
                self.place = match head.framing {
                    Framing::Length(0) => Next::Held,
                    Framing::Length(length) => Next::Length(length),
                    Framing::Chunked => Next::Chunked(ChunkScanner::default()),
                };
                self.control.asked(Asked {
                    authority: head.authority,
                    expect: head.expect,
                    interim: !head.http10,
                });
            }
            HeadOutcome::Refused(error) => self.refuse(error),
        }
        true
    }

    /// Takes and gives back room for the pending bytes; false where there is no more of it.
    fn has_room(&mut self) -> bool {
        let blocks = self.reader.pending().len() / BLOCK;
        self.room.truncate(blocks);
        while self.room.len() < blocks {
            let heads = &self.client.shared.heads;
            let Some(block) = heads.take(self.client.share()) else {
                return false;
            };
            self.room.push(block);
        }
        true
    }

    fn refuse(&mut self, error: HeadError) {
        self.outward.extend(closing_reply(&error.reply()));
        self.control.refused(error);
        self.reader.take(usize::MAX);
        self.room.clear();
        self.place = Next::Refused;
    }

    /// Reads into `buffer` and hands over the fresh bytes, which are then not in it.
    fn poll_read_aside(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let fresh = &buffer.filled()[before..];
        let count = fresh.len();
        self.reader.push(fresh);
        buffer.set_filled(before);
        Poll::Ready(Ok(count))
    }

    /// Waits until there is something for the library: a request, a refusal, or the client's end.
    /// From its first look on the library keeps a buffer, which an unfinished head does not need.
    pub(super) async fn begun(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut aside = [0; ASIDE];
            self.poll_head(cx, &mut ReadBuf::new(&mut aside))
        })
        .await
    }

    /// Reads on to the end of a head. It is still the turn of one afterwards if the client has ended.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.next_head() {
            if !self.has_room() {
                self.refuse(HeadError::NoRoom);
                return Poll::Ready(Ok(()));
            }
            if self.ended || ready!(self.poll_read_aside(cx, buffer))? == 0 {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
        }
        self.has_room();
        Poll::Ready(Ok(()))
    }

    /// Gives the next bytes, whatever they are, and says how many.
    fn poll_read_on(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        let before = buffer.filled().len();
        if self.reader.pending().is_empty() {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        } else {
            buffer.put_slice(&self.reader.take(buffer.remaining()));
        }
        Poll::Ready(Ok(buffer.filled().len() - before))
    }

    /// Gives the next bytes of a body, and keeps those that follow it.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(self.poll_read_on(cx, buffer))?;
        let fresh = &buffer.filled()[before..];
        let scanned = match &mut self.place {
            Next::Length(left) => {
                let used = usize::try_from(*left).unwrap_or(usize::MAX);
                let used = used.min(fresh.len());
                *left -= used as u64;
                let ended = *left == 0;
                Ok(Scanned { used, ended })
            }
            Next::Chunked(scanner) => scanner.scan(fresh),
            Next::Head | Next::Broken | Next::Held | Next::Refused | Next::Tunnel => {
                return Poll::Ready(Ok(()));
            }
        };
        let (used, result) = match scanned {
            Ok(Scanned { used, ended }) => {
                self.reader.push_back(&fresh[used..]);
                if ended {
                    self.place = Next::Held;
                }
                (used, Ok(()))
            }
            Err(error) => {
                self.place = Next::Broken;
                (0, Err(io::Error::new(io::ErrorKind::InvalidData, error)))
            }
        };
        buffer.set_filled(before + used);
        Poll::Ready(result)
    }

    /// Whether the client may be sending something that nobody will read.
    fn is_amid_a_request(&self) -> bool {
        match self.place {
            Next::Length(_) | Next::Chunked(_) | Next::Broken | Next::Refused => true,
            Next::Head | Next::Held | Next::Tunnel => false,
        }
    }

    /// Writes the proxy's own bytes, those that were asked for meanwhile included.
    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.take_interim(&mut self.outward);
        while self.sent < self.outward.len() {
            let bytes = &self.outward[self.sent..];
            match ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.sent += count,
            }
        }
        self.outward = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

/// A reply after which the connection closes, as Envoy sends it.
fn closing_reply(reply: &LocalReply) -> Vec<u8> {
    let status = hyper::StatusCode::from_u16(reply.status);
    let reason = status.ok().and_then(|status| status.canonical_reason());
    let kind = if reply.body.is_empty() {
        ""
    } else {
        "content-type: text/plain\r\n"
    };
    format!(
        "HTTP/1.1 {} {}\r\ncontent-length: {}\r\n{kind}date: {}\r\nserver: envoy\r\nconnection: close\r\n\r\n{}",
        reply.status,
        reason.unwrap_or_default(),
        reply.body.len(),
        httpdate::fmt_http_date(SystemTime::now()),
        reply.body,
    )
    .into_bytes()
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.control.wait(cx);
        // What cannot be written yet goes on with the next flush.
        let _ = this.poll_outward(cx)?;
        loop {
            if this.given < this.inward.len() {
                let part = &this.inward[this.given..];
                let part = &part[..part.len().min(buffer.remaining())];
                buffer.put_slice(part);
                this.given += part.len();
                if this.given == this.inward.len() {
                    (this.inward, this.given) = (Vec::new(), 0);
                }
                return Poll::Ready(Ok(()));
            }
            match this.place {
                Next::Head => {
                    ready!(this.poll_head(cx, buffer))?;
                    if matches!(this.place, Next::Head) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Next::Length(_) | Next::Chunked(_) => return this.poll_body(cx, buffer),
                Next::Held if this.control.is_tunnel() => this.place = Next::Tunnel,
                Next::Held if this.control.take_answered() => this.place = Next::Head,
                Next::Held => {
                    // Read on only to see that the client leaves; what it sends instead waits.
                    if !this.reader.pending().is_empty()
                        || ready!(this.poll_read_aside(cx, buffer))? > 0
                    {
                        return Poll::Pending;
                    }
                    this.ended = true;
                    return Poll::Ready(Ok(()));
                }
                // The library sees the end once the reply is written.
                Next::Refused => return this.poll_outward(cx),
                Next::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Next::Tunnel => return this.poll_read_on(cx, buffer).map_ok(|_| ()),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_outward(cx))?;
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_outward(cx))?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// The library flushes when it has written all that it has.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.control.wait(cx);
        ready!(this.poll_outward(cx))?;
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.control.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_outward(cx))?;
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        if !this.is_amid_a_request() {
            return Poll::Ready(Ok(()));
        }
        let linger = this.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        let mut thrown_away = [0; 4096];
        while !this.ended && linger.as_mut().poll(cx).is_pending() {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => this.ended = true,
            }
        }
        Poll::Ready(Ok(()))
    }
}
