//! One direction of a relayed connection. Bytes are read into a buffer of the thread, and only bytes that the receiver
//! does not accept at once are kept. When many come in a row, they move through a pipe instead (`splice`), if both
//! sides are bare sockets and there is a pipe to be had.
//!
//! It judges nothing, and does not know what the bytes are.

use super::pipe::Pipe;
use super::side::Side;
use crate::proxy::client::Client;
use crate::proxy::places::BLOCK;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

/// Bytes of one read if there is memory to spare.
pub(super) const BUFFER: usize = 4 * BLOCK;

/// A pipe is taken after so many full reads in a row, which are 64 KiB: creating a pipe costs as much as copying a few.
const FULL_READS: u8 = 4;

/// A pipe is given back after so many pieces in a row that are cheaper to copy.
const FEW: u8 = 8;
const CHEAP: usize = BLOCK;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; BUFFER].into());
}

/// See the module.
#[derive(Default)]
pub(super) struct Way {
    /// Bytes that the receiver has not accepted yet.
    held: Vec<u8>,
    written: usize,
    /// The pipe of a direction with many bytes.
    pipe: Option<Box<Pipe>>,
    /// Without a pipe: full reads in a row. With one: small pieces in a row.
    row: u8,
    /// The sender has ended its side.
    ended: bool,
    /// Accepted bytes may wait in a buffer of the receiver's connection (TLS).
    unflushed: bool,
    /// The proxy has ended its side towards the receiver.
    over: bool,
}

impl Way {
    /// Nothing waits for the receiver.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.pipe.as_ref().is_none_or(|pipe| pipe.is_empty())
    }

    /// Nothing has moved for a while: an empty pipe is given back.
    pub(super) fn rest(&mut self) {
        if self.is_empty() {
            self.give_back();
        }
    }

    /// The sender's end has reached the receiver.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    fn give_back(&mut self) {
        (self.pipe, self.row) = (None, 0);
    }

    /// Moves as much as possible. Ready when the sender's end has reached the receiver. `last`: the other direction is
    /// over, so the connection ends with this one.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        client: &Client,
        (from, to): (&mut impl Side, &mut impl Side),
        most: usize,
        last: bool,
    ) -> Poll<io::Result<()>> {
        while !self.over {
            ready!(self.poll_held(cx, to))?;
            ready!(self.poll_piped(cx, to))?;
            if self.ended {
                // The end of the last direction comes with the close. All that its receiver sent was read.
                if !last || to.bare().is_none() {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                }
                self.over = true;
                self.give_back();
            } else if !self.fill(cx, client, from, to)? {
                let fresh = self.poll_fresh(cx, from, to, most)?;
                if fresh.is_pending() && self.unflushed {
                    self.unflushed = Pin::new(&mut *to).poll_flush(cx)?.is_pending();
                }
                ready!(fresh);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_held(&mut self, cx: &mut Context<'_>, to: &mut impl Side) -> Poll<io::Result<()>> {
        while self.written < self.held.len() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.held[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => (self.written, self.unflushed) = (self.written + count, true),
            }
        }
        if !self.held.is_empty() {
            (self.held, self.written) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }

    /// Waits only until the receiver takes the bytes: more of the sender's would not help.
    fn poll_piped(&mut self, cx: &mut Context<'_>, to: &impl Side) -> Poll<io::Result<()>> {
        if let Some(pipe) = &mut self.pipe {
            while !pipe.is_empty() {
                let socket = to.bare().ok_or(io::ErrorKind::NotConnected)?;
                to.count_sent(ready!(pipe.poll_drain(cx, socket))?);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Moves bytes into a pipe. False if the sender has to be read instead.
    fn fill(
        &mut self,
        cx: &mut Context<'_>,
        client: &Client,
        from: &impl Side,
        to: &impl Side,
    ) -> io::Result<bool> {
        if self.pipe.is_none() {
            if self.row < FULL_READS {
                return Ok(false);
            }
            self.row = 0;
            // Without a pipe the next attempt is after as many full reads.
            let bare = from.bare().and(to.bare()).is_some();
            self.pipe = bare.then(|| Pipe::new(client)).flatten().map(Box::new);
        }
        let (Some(pipe), Some(socket)) = (&mut self.pipe, from.bare()) else {
            return Ok(false);
        };
        if !socket.poll_read_ready(cx)?.is_ready() {
            return Ok(false);
        }
        let count = pipe.fill(socket)?;
        from.count_received(count);
        match count {
            0 => return Ok(false),
            1..CHEAP => self.row += 1,
            CHEAP.. => self.row = 0,
        }
        Ok(true)
    }

    /// Reads once, and keeps the bytes that the receiver does not accept.
    fn poll_fresh(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut impl Side,
        to: &mut impl Side,
        most: usize,
    ) -> Poll<io::Result<()>> {
        if self.pipe.is_some() && self.row >= FEW {
            self.give_back();
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(&mut scratch[..most]);
            ready!(Pin::new(from).poll_read(cx, &mut buffer))?;
            let fresh = buffer.filled();
            if fresh.is_empty() {
                self.ended = true;
                return Poll::Ready(Ok(()));
            }
            if self.pipe.is_none() {
                self.row = if fresh.len() == BUFFER {
                    self.row + 1
                } else {
                    0
                };
            }
            let taken = match Pin::new(to).poll_write(cx, fresh)? {
                Poll::Ready(count) => count,
                Poll::Pending => 0,
            };
            self.unflushed = true;
            self.held.extend_from_slice(&fresh[taken..]);
            Poll::Ready(Ok(()))
        })
    }
}
