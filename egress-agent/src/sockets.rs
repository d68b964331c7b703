//! The one factory of the agent's sockets: listeners, connections and datagram sockets, each in a
//! network namespace that is named. Says nothing of what they carry.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;
/// include/uapi/asm-generic/socket.h; since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A network namespace by its cookie, as the kernel side knows it (`bpf_get_netns_cookie`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId(pub u64);

/// Makes sockets.
#[derive(Clone, Debug)]
pub struct SocketFactory {
    own: NetnsId,
}

/// The proxy's two listeners of one namespace: one port, both loopback addresses.
#[derive(Debug)]
pub struct LoopbackListeners {
    /// On 127.0.0.1.
    pub v4: TcpListener,
    /// On `::1`, IPv6 only; `None` where the namespace has no IPv6.
    pub v6: Option<TcpListener>,
    /// The port of both, host byte order.
    pub port: u16,
}

impl SocketFactory {
    /// A factory for the namespace of the calling thread.
    pub fn new() -> io::Result<Self> {
        let probe = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self {
            own: netns_of(&probe)?,
        })
    }

    /// The agent's own namespace.
    pub fn own_netns(&self) -> NetnsId {
        self.own
    }

    /// Listens on 127.0.0.1 and `::1`; port 0 takes one that is free on both.
    pub fn listen_loopback(&self, netns: NetnsId, port: u16) -> io::Result<LoopbackListeners> {
        self.only_own(netns)?;
        let mut attempts = if port == 0 { 16 } else { 1 };
        loop {
            attempts -= 1;
            let v4 = listen((Ipv4Addr::LOCALHOST, port).into())?;
            let port = v4.local_addr()?.port();
            match listen((Ipv6Addr::LOCALHOST, port).into()) {
                Ok(v6) => {
                    return Ok(LoopbackListeners {
                        v4,
                        v6: Some(v6),
                        port,
                    });
                }
                Err(e) if no_ipv6(&e) => return Ok(LoopbackListeners { v4, v6: None, port }),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Connects within `limit`, without Nagle's delay: what is relayed was gathered by its sender.
    pub async fn connect(
        &self,
        netns: NetnsId,
        to: SocketAddr,
        limit: Duration,
    ) -> io::Result<TcpStream> {
        self.only_own(netns)?;
        let socket = tcp_socket(to.ip())?;
        socket.set_nodelay(true)?;
        timeout(limit, socket.connect(to))
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("connect to {to}: no answer in {limit:?}"),
                ))
            })
    }

    /// An unconnected datagram socket on `local`.
    pub fn datagram(&self, netns: NetnsId, local: SocketAddr) -> io::Result<UdpSocket> {
        self.only_own(netns)?;
        let socket = std::net::UdpSocket::bind(local)?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    }

    /// Sockets in other namespaces are a later step; until then they are refused, not made here.
    fn only_own(&self, netns: NetnsId) -> io::Result<()> {
        if netns == self.own {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("no sockets in network namespace {}", netns.0),
        ))
    }
}

/// The namespace that a socket is in.
pub fn netns_of(socket: &impl AsFd) -> io::Result<NetnsId> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open for the length of the borrow, and the option writes at most
    // `length` bytes to `cookie`, which has them.
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
        Ok(NetnsId(cookie))
    } else {
        Err(io::Error::last_os_error())
    }
}

fn tcp_socket(family: IpAddr) -> io::Result<TcpSocket> {
    match family {
        IpAddr::V4(_) => TcpSocket::new_v4(),
        IpAddr::V6(_) => TcpSocket::new_v6(),
    }
}

fn listen(local: SocketAddr) -> io::Result<TcpListener> {
    let socket = tcp_socket(local.ip())?;
    // A restarted agent takes its port although old connections are in TIME_WAIT; two listeners
    // on one port stay impossible.
    socket.set_reuseaddr(true)?;
    if local.is_ipv6() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    socket.bind(local)?;
    socket.listen(BACKLOG)
}

/// No IPv6 in the kernel, or none in this namespace.
fn no_ipv6(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_listeners_share_a_port_and_take_connections() {
        let factory = SocketFactory::new().unwrap();
        let own = factory.own_netns();
        let listeners = factory.listen_loopback(own, 0).unwrap();
        let v6 = listeners.v6.as_ref().expect("this machine has ::1");
        assert_eq!(v6.local_addr().unwrap().port(), listeners.port);
        assert_eq!(netns_of(&listeners.v4).unwrap(), own);
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let stream = factory
                .connect(own, (ip, listeners.port).into(), Duration::from_secs(5))
                .await
                .unwrap();
            assert!(stream.nodelay().unwrap());
        }
        let taken = factory.listen_loopback(own, listeners.port).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn another_namespace_is_refused_and_not_mistaken_for_the_own() {
        let factory = SocketFactory::new().unwrap();
        let other = NetnsId(factory.own_netns().0 + 1);
        assert_eq!(
            factory.listen_loopback(other, 0).unwrap_err().kind(),
            io::ErrorKind::Unsupported
        );
        let to = (Ipv4Addr::LOCALHOST, 9).into();
        let refused = factory
            .connect(other, to, Duration::from_secs(1))
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::Unsupported);
    }
}
