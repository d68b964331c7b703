//! The factory of the agent's sockets: creates listeners, connections and datagram sockets in a given network
//! namespace. It knows neither what they carry nor which namespaces exist.

mod batch;
mod datagrams;
mod inherited;
mod maker;
mod pair;

pub use batch::{Inbox, Outbox};
pub use datagrams::DnsSockets;
pub use pair::{LoopbackListeners, netns_of};

use egress_ebpf::abi::DNS_SLOTS;
use egress_ebpf::ids::NetnsCookie;
use inherited::Inherited;
use maker::{Maker, Wanted};
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

/// Makes sockets.
#[derive(Debug)]
pub struct SocketFactory {
    own: NetnsCookie,
    /// The other namespaces in which sockets may be made, each held by a descriptor.
    others: RwLock<BTreeMap<NetnsCookie, Arc<OwnedFd>>>,
    maker: Maker,
    /// Listeners of a previous agent, by namespace.
    inherited: Mutex<BTreeMap<NetnsCookie, Inherited>>,
    /// Sockets of its DNS server, by namespace.
    inherited_dns: Mutex<BTreeMap<NetnsCookie, datagrams::Inherited>>,
}

impl SocketFactory {
    /// A factory for the namespace of the calling thread.
    pub fn new() -> io::Result<Self> {
        let probe = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        Ok(Self {
            own: netns_of(&probe)?,
            others: RwLock::default(),
            maker: Maker::default(),
            inherited: Mutex::default(),
            inherited_dns: Mutex::default(),
        })
    }

    fn inherited(&self) -> MutexGuard<'_, BTreeMap<NetnsCookie, Inherited>> {
        self.inherited
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn inherited_dns(&self) -> MutexGuard<'_, BTreeMap<NetnsCookie, datagrams::Inherited>> {
        let all = self.inherited_dns.lock();
        all.unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over the listeners of a previous agent, for [`Self::take_inherited`], and the sockets of its DNS server, for
    /// [`Self::dns_sockets`]. Closes others.
    pub fn inherit(&self, sockets: Vec<OwnedFd>) {
        let mut dns = self.inherited_dns();
        let rest = sockets.into_iter();
        let rest = rest.filter_map(|socket| datagrams::sort(socket, &mut dns).err());
        inherited::sort(rest.collect(), &mut self.inherited());
    }

    /// The sockets of the DNS server in a namespace: inherited ones, else new ones on these ports, or on others if they are
    /// 0 or taken.
    pub async fn dns_sockets(
        &self,
        netns: NetnsCookie,
        before: [u16; DNS_SLOTS],
    ) -> io::Result<DnsSockets> {
        let inherited = self.inherited_dns().remove(&netns);
        if let Some(sockets) = inherited
            .map(datagrams::Inherited::serve)
            .transpose()?
            .flatten()
        {
            return Ok(sockets);
        }
        let mut sockets = Vec::new();
        let mut ports = before;
        for place in &mut ports {
            let (both, port) = self.dns_pair(netns, *place).await?;
            sockets.extend(both);
            *place = port;
        }
        ports.sort_unstable();
        Ok(DnsSockets { sockets, ports })
    }

    /// Datagram sockets on a port that is free on both loopback addresses.
    async fn dns_pair(
        &self,
        netns: NetnsCookie,
        mut wanted: u16,
    ) -> io::Result<(Vec<UdpSocket>, u16)> {
        let mut attempts = 16;
        loop {
            attempts -= 1;
            let any = Wanted::DnsServer((Ipv4Addr::LOCALHOST, wanted).into());
            let taken = std::mem::take(&mut wanted) != 0;
            let v4 = match self.make(netns, any).await {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && taken => continue,
                v4 => datagrams::of(v4?)?,
            };
            let port = v4.local_addr()?.port();
            let same = Wanted::DnsServer((Ipv6Addr::LOCALHOST, port).into());
            match self.make(netns, same).await {
                Ok(v6) => return Ok((vec![v4, datagrams::of(v6)?], port)),
                Err(e) if no_ipv6(&e) => return Ok((vec![v4], port)),
                Err(e) if e.kind() == io::ErrorKind::AddrInUse && attempts > 0 => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Takes the inherited pair of listeners of a namespace. Closes it if its port does not fit.
    pub fn take_inherited(
        &self,
        netns: NetnsCookie,
        fits: impl FnOnce(u16) -> bool,
    ) -> io::Result<Option<LoopbackListeners>> {
        let pair = self.inherited().remove(&netns);
        pair.filter(|pair| fits(pair.port))
            .map(Inherited::listen)
            .transpose()
    }

    /// Closes the inherited listeners that nobody has taken, so that no connection waits in their queues.
    /// Returns their namespaces.
    pub fn close_inherited(&self) -> Vec<NetnsCookie> {
        self.inherited_dns().clear();
        std::mem::take(&mut *self.inherited()).into_keys().collect()
    }

    /// The agent's own namespace.
    pub fn own_netns(&self) -> NetnsCookie {
        self.own
    }

    /// Adds the namespace of a descriptor (of `/proc/PID/ns/net` or a mount of it), so that sockets can be
    /// created there until [`Self::forget`]. The descriptor keeps the namespace alive.
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

    /// Releases a namespace. Sockets in it stay until they are closed.
    pub fn forget(&self, netns: NetnsCookie) {
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        others.remove(&netns);
    }

    /// Listens on 127.0.0.1 and `::1`. With port 0, on a port that is free on both.
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

    /// Connects within `limit`. The connection has no Nagle delay, because the sender writes whole buffers.
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

    /// Every namespace in which sockets can be created.
    pub fn namespaces(&self) -> Vec<NetnsCookie> {
        let others = self.others.read().unwrap_or_else(PoisonError::into_inner);
        std::iter::once(self.own)
            .chain(others.keys().copied())
            .collect()
    }

    /// A `sock_diag(7)` socket. It is blocking, because the kernel answers at once.
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

/// Listens on both loopback addresses in the namespace of the calling thread. Needs no runtime.
pub fn listen_here(port: u16) -> io::Result<Vec<OwnedFd>> {
    let v4 = maker::make(Wanted::Listener((Ipv4Addr::LOCALHOST, port).into()))?;
    match maker::make(Wanted::Listener((Ipv6Addr::LOCALHOST, port).into())) {
        Ok(v6) => Ok(vec![v4, v6]),
        Err(e) if no_ipv6(&e) => Ok(vec![v4]),
        Err(e) => Err(e),
    }
}

/// Sockets of the DNS server on these ports, in the namespace of the calling thread. Needs no runtime.
pub fn dns_here(ports: [u16; DNS_SLOTS]) -> io::Result<Vec<OwnedFd>> {
    let mut all = Vec::new();
    for port in ports {
        all.push(maker::make(Wanted::DnsServer(
            (Ipv4Addr::LOCALHOST, port).into(),
        ))?);
        match maker::make(Wanted::DnsServer((Ipv6Addr::LOCALHOST, port).into())) {
            Ok(v6) => all.push(v6),
            Err(e) if no_ipv6(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(all)
}

/// The namespace of the calling thread.
pub fn netns_here() -> io::Result<NetnsCookie> {
    netns_of(&std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?)
}

/// Whether an error means that the kernel has no IPv6.
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
