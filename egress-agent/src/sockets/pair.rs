//! A pair of listeners, and the namespace of a socket. Creates no socket.

use egress_ebpf::ids::NetnsCookie;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};
use tokio::net::TcpListener;

/// include/uapi/asm-generic/socket.h; since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The proxy's two listeners in one namespace: one port on both loopback addresses.
#[derive(Debug)]
pub struct LoopbackListeners {
    /// On 127.0.0.1.
    pub v4: TcpListener,
    /// On `::1`, IPv6 only; `None` if the kernel has no IPv6.
    pub v6: Option<TcpListener>,
    /// The port of both, host byte order.
    pub port: u16,
}

/// The namespace that a socket is in.
pub fn netns_of(socket: &impl AsFd) -> io::Result<NetnsCookie> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as it is borrowed, and the call writes at most `length` bytes,
    // which is the size of `cookie`.
    let done = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if done == 0 {
        Ok(NetnsCookie(cookie))
    } else {
        Err(io::Error::last_os_error())
    }
}
