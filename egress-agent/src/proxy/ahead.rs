//! Bytes that are read from a connection before its handling is decided. They count towards the
//! memory of its workload.
//!
//! It does not interpret them.

use super::client::Client;
use super::places::BLOCK;
use super::places::Place;
use std::io;
use std::ops::Deref;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

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
        // A full buffer would be doubled at once.
        if self.bytes.len() == self.bytes.capacity() {
            let more = (self.bytes.len() / 2).clamp(64, BLOCK);
            self.bytes.reserve_exact(more);
        }
        stream.read_buf(&mut self.bytes).await
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
