//! Listening sockets that another process created: finds the namespace and port of each, and checks that it
//! can be a proxy's listener. Does not check whether the kernel redirects to it.

use super::pair::{LoopbackListeners, netns_of};
use egress_ebpf::ids::NetnsCookie;
use rustix::net::{SocketType, getsockname, sockopt};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use tokio::net::TcpListener;

/// A pair of listeners that the runtime does not have yet.
#[derive(Debug, Default)]
pub(super) struct Inherited {
    v4: Option<OwnedFd>,
    v6: Option<OwnedFd>,
    pub(super) port: u16,
}

impl Inherited {
    /// Gives the pair to the runtime.
    pub(super) fn listen(self) -> io::Result<LoopbackListeners> {
        let listener = |socket: OwnedFd| {
            let socket = std::net::TcpListener::from(socket);
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        let v4 = self.v4.ok_or(io::ErrorKind::NotFound)?;
        Ok(LoopbackListeners {
            v4: listener(v4)?,
            v6: self.v6.map(listener).transpose()?,
            port: self.port,
        })
    }
}

/// Adds each socket to the pair of its namespace. Closes a socket that is not a listener on loopback or has
/// another port than its pair, and a pair without IPv4.
pub(super) fn sort(sockets: Vec<OwnedFd>, into: &mut BTreeMap<NetnsCookie, Inherited>) {
    for socket in sockets {
        let (netns, local) = match look(&socket) {
            Ok(looked) => looked,
            Err(error) => {
                tracing::warn!(%error, "closing an inherited socket that is not a listener of the proxy");
                continue;
            }
        };
        let pair = into.entry(netns).or_default();
        if pair.port == 0 {
            pair.port = local.port();
        }
        let place = if local.is_ipv4() {
            &mut pair.v4
        } else {
            &mut pair.v6
        };
        if pair.port == local.port() && place.is_none() {
            *place = Some(socket);
        }
    }
    into.retain(|_, pair| pair.v4.is_some());
}

fn look(socket: &impl AsFd) -> io::Result<(NetnsCookie, SocketAddr)> {
    let stream = sockopt::socket_type(socket)? == SocketType::STREAM;
    if !stream || !sockopt::socket_acceptconn(socket)? {
        return Err(io::Error::other("the socket does not listen"));
    }
    let local = SocketAddr::try_from(getsockname(socket)?)?;
    if !local.ip().is_loopback() {
        return Err(io::Error::other(format!("the socket listens on {local}")));
    }
    Ok((netns_of(socket)?, local))
}

#[cfg(test)]
mod tests {
    use crate::sockets::SocketFactory;
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;

    #[tokio::test]
    async fn a_pair_is_taken_once_and_what_is_not_a_listener_on_loopback_is_closed() {
        let factory = SocketFactory::new().unwrap();
        let own = factory.own_netns();
        let pair = factory.listen_loopback(own, 0).await.unwrap();
        let port = pair.port;
        let of = |l: tokio::net::TcpListener| OwnedFd::from(l.into_std().unwrap());
        let anywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let client = std::net::TcpStream::connect(pair.v4.local_addr().unwrap()).unwrap();
        factory.inherit(vec![
            anywhere.into(),
            client.into(),
            of(pair.v6.unwrap()),
            of(pair.v4),
        ]);
        let again = factory.take_inherited(own, |taken| taken == port).unwrap();
        let again = again.unwrap();
        assert_eq!((again.port, again.v6.is_some()), (port, true));
        assert!(factory.take_inherited(own, |_| true).unwrap().is_none());
        // The client that connected before is in the queue.
        again.v4.accept().await.unwrap();
    }

    #[tokio::test]
    async fn a_pair_on_another_port_than_wanted_is_closed() {
        let factory = SocketFactory::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        factory.inherit(vec![listener.into()]);
        let none = factory.take_inherited(factory.own_netns(), |port| port != at.port());
        assert!(none.unwrap().is_none());
        assert!(std::net::TcpStream::connect(at).is_err());
    }
}
