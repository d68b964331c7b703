//! Writes of a message in several short parts.
//!
//! It keeps nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;

/// Writes slices, short ones in one piece: `send` costs less than `writev`.
pub(super) fn poll_write_slices(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    slices: &[io::IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    const SHORT: usize = 1024;
    let stream = Pin::new(stream);
    let length: usize = slices.iter().map(|slice| slice.len()).sum();
    if let [only] = slices {
        stream.poll_write(cx, only)
    } else if length <= SHORT {
        let (mut whole, mut at) = ([0; SHORT], 0);
        for slice in slices {
            whole[at..at + slice.len()].copy_from_slice(slice);
            at += slice.len();
        }
        stream.poll_write(cx, &whole[..length])
    } else {
        stream.poll_write_vectored(cx, slices)
    }
}
