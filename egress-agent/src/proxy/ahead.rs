//! Bytes that are read from a connection before its handling is decided. They count towards the
//! memory of its workload.
//!
//! It does not interpret them.

use super::client::Client;
use super::places::BLOCK;
use super::places::Place;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Poll, ready};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

/// Bytes of one read: a usual ClientHello fits, and a request keeps little of its body while it waits for memory.
const READ_SIZE: usize = 2048;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    bytes: Vec<u8>,
    room: Option<Place>,
}

impl Ahead {
    /// Reads some bytes and returns their number: 0 at the client's end. `OutOfMemory` if the
    /// workload's memory is used up. A reader of the bytes that gathers them once more has `copies`
    /// of 2.
    pub(super) async fn read(
        &mut self,
        client: &Client,
        stream: &mut TcpStream,
        copies: usize,
    ) -> io::Result<usize> {
        if !client.keep_room(&mut self.room, self.bytes.len() * copies / BLOCK) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let bytes = &mut self.bytes;
        // Read aside, so that a hello takes one read and no more memory than its length.
        poll_fn(|cx| {
            let mut aside = [MaybeUninit::uninit(); READ_SIZE];
            let mut buffer = ReadBuf::uninit(&mut aside);
            ready!(Pin::new(&mut *stream).poll_read(cx, &mut buffer))?;
            let fresh = buffer.filled();
            if bytes.capacity() - bytes.len() < fresh.len() {
                // Bytes that come one by one are not moved each time.
                let more = fresh.len().max((bytes.len() / 2).min(BLOCK));
                bytes.reserve_exact(more);
            }
            bytes.extend_from_slice(fresh);
            Poll::Ready(Ok(fresh.len()))
        })
        .await
    }

    /// Removes and returns the bytes from `at` on.
    pub(super) fn split_off(&mut self, at: usize) -> Vec<u8> {
        self.bytes.split_off(at)
    }
}

impl Deref for Ahead {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
