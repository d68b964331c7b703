//! Bytes on their way to a reader whose buffer may be smaller than they are.
//!
//! It reads and writes nothing.

use tokio::io::ReadBuf;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Onward {
    bytes: Vec<u8>,
    given: usize,
}

impl Onward {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, given: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.given == self.bytes.len()
    }

    /// Gives as much as fits; the memory goes with the last byte.
    pub(super) fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let part = &self.bytes[self.given..];
        let part = &part[..part.len().min(buffer.remaining())];
        buffer.put_slice(part);
        self.given += part.len();
        if self.is_empty() {
            *self = Self::default();
        }
    }
}
