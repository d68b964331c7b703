//! A pipe between two sockets: `splice(2)` moves bytes into it and out of it without a copy into this process.
//!
//! It does not decide when bytes may move unseen.

use crate::proxy::client::Client;
use crate::proxy::places::{BLOCK, Place};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, splice};
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// The most bytes in a pipe. They count as memory of the workload, because the kernel's pages belong to no socket
/// while they are in a pipe.
const MAX_PIPE_BYTES: usize = 128 * 1024;

/// See the module.
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes in it.
    filled: usize,
    /// Its place among all pipes, and its memory.
    _places: [Place; 2],
}

impl Pipe {
    /// An empty pipe, if the workload may have one more. It has the kernel's default size (16 pages): with a size of
    /// its own it would fail where the user's pages are used up (`pipe-user-pages-soft`, pipe(7)); so it is only
    /// smaller there.
    pub(super) fn new(client: &Client) -> Option<Self> {
        let (shared, share) = (&client.shared, client.share());
        let place = shared.pipes.take(share)?;
        let memory = shared.memory.spare(share, MAX_PIPE_BYTES / BLOCK)?;
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        Some(Self {
            read,
            write,
            filled: 0,
            _places: [place, memory],
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Moves what the socket has received into the empty pipe. Returns the number of bytes. 0 says nothing about the
    /// socket, which has to be read: it may be empty, at its end, or at an urgent byte (`tcp_read_sock` stops there).
    pub(super) fn fill(&mut self, from: &TcpStream) -> io::Result<usize> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        self.filled = match splice(from, None, &self.write, None, MAX_PIPE_BYTES, flags) {
            Ok(count) => count,
            // The last three are for a kernel or a filter of system calls (seccomp) that has no splice for this.
            Err(Errno::AGAIN | Errno::INTR | Errno::INVAL | Errno::NOSYS | Errno::PERM) => 0,
            // An error of the socket is reported once only: a read would see an end.
            Err(error) => return Err(error.into()),
        };
        Ok(self.filled)
    }

    /// Moves bytes of the pipe into the socket as soon as it takes some. Returns their number.
    pub(super) fn poll_drain(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
    ) -> Poll<io::Result<usize>> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        loop {
            ready!(to.poll_write_ready(cx))?;
            let moved = to.try_io(Interest::WRITABLE, || {
                splice(&self.read, None, to, None, self.filled, flags).map_err(io::Error::from)
            });
            match moved {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.filled -= count;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}
