//! The client's connection below the HTTP library: gives the library one request at a time, each head in the canonical
//! form of `egress_core::http::request_head`, and answers rejected heads.
//!
//! The next request is held back until the previous response is sent. The 1xx and error responses
//! that this layer writes itself therefore keep their place in the stream. It judges no host and no
//! route.

mod framed;
mod outward;

use super::control::{Asked, Control};
use super::local::closing_reply;
use super::room::Room;
use crate::proxy::client::Client;
use crate::proxy::onward::Onward;
use crate::proxy::stream::{LONG, Rewound};
use crate::proxy::ticket::Counters;
use egress_core::http::chunked::Scanned;
use egress_core::http::head_error::HeadError;
use egress_core::http::head_reader::{HeadOutcome, HeadReader};
use egress_core::http::request_head::Head;
use framed::Framed;
use outward::{Linger, Outward};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The size of one read while the library has no buffer yet.
const ASIDE: usize = 4096;

/// See the module.
pub(in crate::proxy::http) struct Wire {
    stream: Rewound,
    room: Room,
    /// A whole head that waits for room.
    waiting: Option<Head>,
    control: Arc<Control>,
    reader: HeadReader,
    place: Next,
    /// A head on its way to the library.
    inward: Onward,
    outward: Outward,
    ended: bool,
    /// Bytes of the body that came in small reads.
    narrow: usize,
    linger: Linger,
}

/// What the next bytes of the client are.
enum Next {
    Head,
    Body(Framed),
    /// The body broke its coding.
    Broken,
    /// Bytes of the next request, while this one is being answered.
    Held,
    /// Ignored, because the connection closes after a reply of the proxy itself.
    Closing,
    /// Bytes of the protocol to which the connection was switched.
    Tunnel,
}

impl Wire {
    /// A connection whose heads `reader` reads.
    pub(in crate::proxy::http) fn new(
        client: Client,
        stream: Rewound,
        reader: HeadReader,
        control: Arc<Control>,
    ) -> Self {
        Self {
            stream,
            room: Room::new(client),
            waiting: None,
            control,
            reader,
            place: Next::Head,
            inward: Onward::default(),
            outward: Outward::default(),
            ended: false,
            narrow: 0,
            linger: Linger::default(),
        }
    }

    pub(in crate::proxy::http) fn counters(&self) -> Arc<Counters> {
        self.stream.counters()
    }

    /// Looks for the next head in the bytes so far, and takes room for it.
    fn look(&mut self) -> Looked {
        match self.reader.next_head() {
            HeadOutcome::NeedMore if self.room.keep(self.reader.pending().len()) => {
                return Looked::NeedMore;
            }
            HeadOutcome::NeedMore => self.reject(HeadError::NoRoom),
            HeadOutcome::Head(head) => {
                let pending = self.reader.pending().len();
                if !self.room.ask(head.bytes.len(), pending) {
                    self.waiting = Some(head);
                    return Looked::Waits;
                }
                self.begin(head);
            }
            HeadOutcome::Rejected(error) => self.reject(error),
        }
        Looked::Done
    }

    /// Waits for the room of a head, if a head needs it.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.is_some() {
            let has_room = ready!(self.room.poll_asked(cx));
            match self.waiting.take() {
                Some(head) if has_room => self.begin(head),
                Some(_) | None => self.reject(HeadError::NoRoom),
            }
        }
        Poll::Ready(())
    }

    /// Gives the library a head.
    fn begin(&mut self, head: Head) {
        self.inward = Onward::new(head.bytes);
        self.place = Framed::new(head.framing).map_or(Next::Held, Next::Body);
        self.control.asked(Asked {
            authority: head.authority,
            expect: head.expect,
            connection: head.connection,
            interim: !head.http10,
        });
    }

    fn reject(&mut self, error: HeadError) {
        self.outward.bytes.extend(closing_reply(&error.reply()));
        self.control.rejected(error);
        self.reader.take(usize::MAX);
        self.room.keep(0);
        self.place = Next::Closing;
    }

    /// Reads through `buffer` and moves the new bytes to `reader`. Returns their number.
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

    /// Waits for a request. Returns whether the library must serve it. The library keeps buffers from its first read
    /// on, which unfinished and rejected heads do not need.
    pub(in crate::proxy::http) async fn begun(&mut self) -> io::Result<bool> {
        poll_fn(|cx| {
            let mut aside = [0; ASIDE];
            self.poll_head(cx, &mut ReadBuf::new(&mut aside))
        })
        .await?;
        if matches!(self.place, Next::Closing) {
            poll_fn(|cx| Pin::new(&mut *self).poll_shutdown(cx)).await?;
        }
        Ok(!matches!(self.place, Next::Closing | Next::Head))
    }

    /// The HTTP library was dropped until the next request.
    pub(in crate::proxy::http) fn rest(&mut self) {
        (self.stream.wide, self.narrow) = (false, 0);
        self.reader.rest();
        self.room.rest(self.reader.pending().len());
    }

    /// Reads until the end of a head. If the client has ended, a head is still expected afterwards.
    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while matches!(self.place, Next::Head) {
            ready!(self.poll_room(cx));
            if !matches!(self.place, Next::Head) {
                break;
            }
            match self.look() {
                Looked::Done => break,
                Looked::Waits => continue,
                Looked::NeedMore => {}
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match self.poll_read_aside(cx, buffer) {
                Poll::Ready(count) => self.ended = count? == 0,
                Poll::Pending => {
                    let idle = self.reader.pending().is_empty();
                    let wanted = idle && self.room.poll_wanted(cx).is_ready();
                    self.control.waits(wanted);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Gives the next bytes of any kind. Returns their number.
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

    /// Gives the next bytes of a body, and keeps the bytes after it.
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, asks) = (buffer.filled().len(), buffer.remaining() > 0);
        ready!(self.poll_read_on(cx, buffer))?;
        let fresh = &buffer.filled()[before..];
        if !self.stream.wide {
            self.narrow += fresh.len();
            if self.narrow >= LONG {
                self.narrow = 0;
                self.stream.wide = self.room.widen();
            }
        }
        let Next::Body(body) = &mut self.place else {
            return Poll::Ready(Ok(()));
        };
        if fresh.is_empty() && asks {
            // As Envoy, without a response.
            self.control.left();
            return Poll::Pending;
        }
        let (used, result) = match body.scan(fresh) {
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

    /// Whether the client may be sending bytes that the proxy does not read.
    fn is_amid_a_request(&self) -> bool {
        match self.place {
            Next::Body(_) | Next::Broken | Next::Closing => true,
            Next::Head | Next::Held | Next::Tunnel => false,
        }
    }

    /// Writes the proxy's own bytes, including those that were added meanwhile.
    fn poll_outward(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.take_interim(&mut self.outward.bytes);
        self.outward.poll_write(&mut self.stream, cx)
    }

    /// Adds header lines to a response that has some besides the library's. Returns how many bytes it took.
    fn insert_lines(&mut self, bytes: &[u8]) -> usize {
        if !bytes.starts_with(b"HTTP/") {
            return 0;
        }
        self.outward.insert(bytes, &self.control.take_lines())
    }
}

/// The result of the search for a head.
enum Looked {
    NeedMore,
    /// A whole head waits for its blocks.
    Waits,
    /// No head is expected, because a body follows or the connection ends.
    Done,
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.control.wait(cx);
        // The next flush writes what could not be written now.
        let _ = this.poll_outward(cx)?;
        loop {
            if !this.inward.is_empty() {
                this.inward.give(buffer);
                return Poll::Ready(Ok(()));
            }
            match this.place {
                Next::Head => {
                    ready!(this.poll_head(cx, buffer))?;
                    if matches!(this.place, Next::Head) {
                        return Poll::Ready(Ok(()));
                    }
                }
                Next::Body(_) => return this.poll_body(cx, buffer),
                Next::Held if this.control.is_tunnel() => this.place = Next::Tunnel,
                Next::Held if this.control.take_answered() => this.place = Next::Head,
                Next::Held => {
                    // This read only notices that the client leaves. Other bytes wait.
                    if !this.reader.pending().is_empty()
                        || ready!(this.poll_read_aside(cx, buffer))? > 0
                    {
                        return Poll::Pending;
                    }
                    this.ended = true;
                    return Poll::Ready(Ok(()));
                }
                // The library sees the end once the reply is written.
                Next::Closing => return this.poll_outward(cx),
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
        match this.insert_lines(bytes) {
            0 => Pin::new(&mut this.stream).poll_write(cx, bytes),
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_outward(cx))?;
        let first = slices.first().map_or(&[][..], |slice| slice);
        match this.insert_lines(first) {
            0 => Pin::new(&mut this.stream).poll_write_vectored(cx, slices),
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// The library flushes once it has written everything.
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
        if !this.linger.has_begun() {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        }
        if this.is_amid_a_request() {
            ready!(this.linger.poll(&mut this.stream, &mut this.ended, cx));
        }
        Poll::Ready(Ok(()))
    }
}
