//! The sockets of the DNS server in one namespace: ports on both loopback addresses, each of which stands for a server
//! that a client asks. `batch` reads from them and writes to them.

use super::pair::netns_of;
use egress_ebpf::abi::DNS_SLOTS;
use egress_ebpf::ids::NetnsCookie;
use rustix::net::{SocketType, getsockname, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use tokio::net::UdpSocket;

/// include/uapi/asm-generic/socket.h; since Linux 5.19.
const SO_RCVMARK: libc::c_int = 75;
/// Bytes of datagrams that may wait in one socket, as the kernel counts them: about 5 000 queries.
const RECEIVE_BUFFER: libc::c_int = 4 << 20;

/// See the module.
#[derive(Debug)]
pub struct DnsSockets {
    /// On 127.0.0.1, and on `::1` unless the kernel has no IPv6. In the order of their ports.
    pub sockets: Vec<UdpSocket>,
    /// The ports, ascending, so that a next agent has them in the same order.
    pub ports: [u16; DNS_SLOTS],
}

/// Sets the options of a socket of the DNS server.
pub(super) fn prepare(socket: &impl AsFd) -> io::Result<()> {
    set(socket, SO_RCVMARK, 1)?;
    set(socket, libc::SO_RCVBUFFORCE, RECEIVE_BUFFER)
}

fn set(socket: &impl AsFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open as long as it is borrowed. The call reads the four bytes of `value`, which outlives
    // it.
    let done = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Datagram sockets that another process created, which the runtime does not have yet.
#[derive(Debug, Default)]
pub(super) struct Inherited(Vec<(SocketAddr, OwnedFd)>);

impl Inherited {
    /// Gives the sockets to the runtime. `None` if they are not one IPv4 socket for each port.
    pub(super) fn serve(self) -> io::Result<Option<DnsSockets>> {
        let mut v4: Vec<u16> = self
            .0
            .iter()
            .filter(|(at, _)| at.is_ipv4())
            .map(|(at, _)| at.port())
            .collect();
        v4.sort_unstable();
        let Ok(ports) = <[u16; DNS_SLOTS]>::try_from(v4) else {
            return Ok(None);
        };
        let known = self
            .0
            .into_iter()
            .filter(|(at, _)| ports.contains(&at.port()));
        let sockets = known
            .map(|(_, socket)| of(socket))
            .collect::<io::Result<_>>()?;
        Ok(Some(DnsSockets { sockets, ports }))
    }
}

/// Gives a socket to the runtime.
pub(super) fn of(socket: OwnedFd) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::from(socket);
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// Adds a socket to those of its namespace. Returns it if it is not a datagram socket on loopback.
pub(super) fn sort(
    socket: OwnedFd,
    into: &mut BTreeMap<NetnsCookie, Inherited>,
) -> Result<(), OwnedFd> {
    let look = || {
        let datagrams = sockopt::socket_type(&socket).ok()? == SocketType::DGRAM;
        let local = SocketAddr::try_from(getsockname(&socket).ok()?).ok()?;
        let netns = netns_of(&socket).ok()?;
        (datagrams && local.ip().is_loopback()).then_some((netns, local))
    };
    let Some((netns, local)) = look() else {
        return Err(socket);
    };
    into.entry(netns).or_default().0.push((local, socket));
    Ok(())
}
