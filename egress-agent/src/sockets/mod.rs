//! The one factory of the agent's sockets: listeners, connections and datagram sockets, each in a
//! given network namespace. It knows neither what they carry nor which namespaces exist.

mod maker;

use egress_ebpf::ids::NetnsCookie;
use maker::{Maker, Wanted};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

/// include/uapi/asm-generic/socket.h; since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Makes sockets.
#[derive(Debug)]
pub struct SocketFactory {
    own: NetnsCookie,
    /// The other namespaces in which sockets may be made, each held by a descriptor.
    others: RwLock<BTreeMap<NetnsCookie, Arc<OwnedFd>>>,
    maker: Maker,
}

/// The proxy's two listeners of one namespace: one port, both loopback addresses.
#[derive(Debug)]
pub struct LoopbackListeners {
    /// On 127.0.0.1.
    pub v4: TcpListener,
    /// On `::1`, IPv6 only; `None` where the kernel has no IPv6.
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
            others: RwLock::default(),
            maker: Maker::default(),
        })
    }

    /// The agent's own namespace.
    pub fn own_netns(&self) -> NetnsCookie {
        self.own
    }

    /// Takes the namespace behind a descriptor (of `/proc/PID/ns/net` or a mount of it): sockets
    /// can be made there until [`Self::forget`]. The descriptor keeps the namespace alive.
    pub async fn admit(&self, namespace: OwnedFd) -> io::Result<NetnsCookie> {
        let namespace = Arc::new(namespace);
        let any = Wanted::Stream(Ipv4Addr::LOCALHOST.into());
        let probe = self.maker.make(Arc::clone(&namespace), any).await?;
        let id = netns_of(&probe)?;
        if id != self.own {
            let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
            others.entry(id).or_insert(namespace);
        }
        Ok(id)
    }

    /// Lets go of a namespace. Sockets in it stay until they are closed.
    pub fn forget(&self, netns: NetnsCookie) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.remove(&netns);
    }

    /// Listens on 127.0.0.1 and `::1`; port 0 takes one that is free on both.
    pub async fn listen_loopback(
        &self,
        netns: NetnsCookie,
        port: u16,
    ) -> io::Result<LoopbackListeners> {
        let mut attempts = if port == 0 { 16 } else { 1 };
        loop {
            attempts -= 1;
            let v4 = self.listen(netns, (Ipv4Addr::LOCALHOST, port)).await?;
            let port = v4.local_addr()?.port();
            let v6 = match self.listen(netns, (Ipv6Addr::LOCALHOST, port)).await {
                Ok(v6) => Some(v6),
                Err(e) if no_ipv6(&e) => None,
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && attempts > 0 => continue,
                Err(e) => return Err(e),
            };
            return Ok(LoopbackListeners { v4, v6, port });
        }
    }

    async fn listen(
        &self,
        netns: NetnsCookie,
        local: impl Into<SocketAddr>,
    ) -> io::Result<TcpListener> {
        let socket = self.make(netns, Wanted::Listener(local.into())).await?;
        TcpListener::from_std(socket.into())
    }

    /// Connects within `limit`, without Nagle's delay: what is relayed was gathered by its sender.
    pub async fn connect(
        &self,
        netns: NetnsCookie,
        to: SocketAddr,
        limit: Duration,
    ) -> io::Result<TcpStream> {
        let socket = self.make(netns, Wanted::Stream(to.ip())).await?;
        let socket = TcpSocket::from_std_stream(socket.into());
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
    pub async fn datagram(&self, netns: NetnsCookie, local: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.make(netns, Wanted::Datagram(local)).await?;
        UdpSocket::from_std(socket.into())
    }

    /// Every namespace in which sockets can be made.
    pub fn namespaces(&self) -> Vec<NetnsCookie> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(self.own)
            .chain(others.keys().copied())
            .collect()
    }

    /// A `sock_diag(7)` socket, blocking: the kernel answers at once.
    pub async fn diag(&self, netns: NetnsCookie) -> io::Result<OwnedFd> {
        self.make(netns, Wanted::Diag).await
    }

    async fn make(&self, netns: NetnsCookie, wanted: Wanted) -> io::Result<OwnedFd> {
        if netns == self.own {
            return maker::make(wanted);
        }
        let namespace = {
            let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
            others.get(&netns).map(Arc::clone)
        };
        let Some(namespace) = namespace else {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("network namespace {} is gone or not known", netns.0),
            ));
        };
        self.maker.make(namespace, wanted).await
    }
}

/// The namespace that a socket is in.
pub fn netns_of(socket: &impl AsFd) -> io::Result<NetnsCookie> {
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
        Ok(NetnsCookie(cookie))
    } else {
        Err(io::Error::last_os_error())
    }
}

/// No IPv6 in the kernel.
fn no_ipv6(e: &io::Error) -> bool {
    e.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[tokio::test]
    async fn both_listeners_share_a_port_and_take_connections() {
        let factory = SocketFactory::new().unwrap();
        let own = factory.own_netns();
        let listeners = factory.listen_loopback(own, 0).await.unwrap();
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
        let taken = factory.listen_loopback(own, listeners.port).await;
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }

    #[tokio::test]
    async fn a_namespace_that_was_not_shown_is_refused_and_not_mistaken_for_the_own() {
        let factory = SocketFactory::new().unwrap();
        let other = NetnsCookie(factory.own_netns().0 + 1);
        let listening = factory.listen_loopback(other, 0).await;
        assert_eq!(listening.unwrap_err().kind(), io::ErrorKind::NotFound);
        let to = (Ipv4Addr::LOCALHOST, 9).into();
        let connecting = factory.connect(other, to, Duration::from_secs(1)).await;
        assert_eq!(connecting.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_own_namespace_shown_again_stays_the_own() {
        let factory = SocketFactory::new().unwrap();
        let own = std::fs::File::open("/proc/self/ns/net").unwrap();
        let id = factory.admit(own.into()).await.unwrap();
        assert_eq!(id, factory.own_netns());
    }
}
