//! The memory of an HTTP/2 connection, to a client or to an endpoint: the library's settings, and the blocks that they
//! need. Takes no memory itself.

use super::places::BLOCK;

/// Bytes of the bodies that one peer has sent and the proxy has not passed on yet: of one stream, and of all streams
/// of a connection.
pub(super) const WINDOW: u32 = 64 * 1024 - 1;

/// Bytes of a body to the peer that one stream may have in the library.
pub(super) const SEND_BUFFER: usize = 16 * 1024;

/// Blocks of a connection as long as it lives: the library's buffers to read and to write (16 KiB each), its tables of
/// field names and values (4 KiB each), and the bodies within [`WINDOW`].
pub(super) const CONNECTION: usize = 28;

/// Further blocks of a connection whose streams share this window instead of [`WINDOW`].
pub(super) const fn wide(window: u32) -> usize {
    (window - WINDOW) as usize / BLOCK
}
