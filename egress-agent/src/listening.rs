//! A TCP listener whose clients may be hostile: few connections, few of them a second, and a short time for each. A peer
//! with many connections loses its own first. What a connection is asked is the caller's.

use crate::config::ListenAddress;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// The most connections at one time.
const CONNECTIONS: usize = 16;
/// Connections that wait in the kernel.
const BACKLOG: u32 = 16;
/// The mean time between two connections, and how many may come at once.
const PACE: Duration = Duration::from_millis(20);
const BURST: u32 = 32;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(5);
/// How long a connection may take from its accept to its end.
const WHOLE: Duration = Duration::from_secs(10);
/// The most bytes and fields of a request's head.
const HEAD_BYTES: usize = 8192;
const HEAD_FIELDS: usize = 64;
/// Time between two tries to listen.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Time after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What listens, in words, and the setting that names the address.
#[derive(Clone, Copy, Debug)]
pub struct Purpose {
    /// Such as `metrics and health`.
    pub what: &'static str,
    /// Such as `monitoring.address`.
    pub setting: &'static str,
}

/// Serves each connection to `address`. Does not return. The gate works without it, so an agent that cannot listen logs that
/// once and tries again: an agent that stops may still hold the port. Dropping the future ends the connections.
pub async fn serve<F>(address: ListenAddress, purpose: Purpose, one: impl Fn(TcpStream) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let Purpose { what, setting } = purpose;
    let mut told = false;
    let listener = loop {
        match listen(address) {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(
                        %address,
                        %error,
                        setting,
                        "cannot listen for {what}; the gate is not affected; trying again"
                    );
                }
                sleep(RETRY_INTERVAL).await;
            }
        }
    };
    tracing::info!(%address, "serving {what}");
    let mut clients = Clients::default();
    let mut next = Instant::now();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting a client of {what} failed");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let served = one(stream);
        clients.add(peer.ip(), async move {
            // A client that is cut off is not worth a line.
            let _ = timeout(WHOLE, served).await;
        });
        next = next.max(Instant::now()) + PACE;
        sleep_until(next - PACE * BURST).await;
    }
}

/// HTTP/1.1 with one request on a connection and a small head.
pub fn http() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .keep_alive(false);
    builder
}

/// Listens. Without an address, on every address of both families, or of IPv4 if the kernel has no IPv6.
fn listen(address: ListenAddress) -> io::Result<TcpListener> {
    let port = address.port;
    match address.ip {
        Some(ip) => listen_on((ip, port).into()),
        None => match listen_on((Ipv6Addr::UNSPECIFIED, port).into()) {
            Err(e) if e.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
                listen_on((Ipv4Addr::UNSPECIFIED, port).into())
            }
            listening => listening,
        },
    }
}

fn listen_on(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of an agent that has ended may still wait in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

/// The running connections, oldest first.
#[derive(Default)]
struct Clients {
    tasks: JoinSet<()>,
    running: Vec<(IpAddr, AbortHandle)>,
}

impl Clients {
    /// Serves another client. If there are too many, the peer that has the most connections loses its oldest one, so
    /// that a single peer cannot keep others out.
    fn add(&mut self, peer: IpAddr, work: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.running.retain(|(_, task)| !task.is_finished());
        self.running.push((peer, self.tasks.spawn(work)));
        if self.running.len() > CONNECTIONS
            && let Some(greedy) = greedy(self.running.iter().map(|(peer, _)| *peer))
        {
            let (_, task) = self.running.remove(greedy);
            task.abort();
        }
    }
}

/// The place of the oldest connection of the peer that has the most.
fn greedy(peers: impl Iterator<Item = IpAddr>) -> Option<usize> {
    let mut counts: BTreeMap<IpAddr, (usize, usize)> = BTreeMap::new();
    for (place, peer) in peers.enumerate() {
        counts.entry(peer).or_insert((0, place)).0 += 1;
    }
    let most = |(count, place): &(usize, usize)| (*count, std::cmp::Reverse(*place));
    let (_, place) = counts.into_values().max_by_key(most)?;
    Some(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peer_with_most_connections_loses_its_oldest() {
        let ip = |last| IpAddr::from([192, 0, 2, last]);
        for (peers, want) in [
            (vec![1, 2, 2, 3], 1),
            (vec![1, 2, 3], 0),
            (vec![2, 1, 1, 1, 2], 1),
        ] {
            let peers = peers.into_iter().map(ip);
            assert_eq!(greedy(peers), Some(want));
        }
        assert_eq!(greedy(std::iter::empty()), None);
    }

    #[tokio::test]
    async fn a_listener_takes_both_families_on_every_address() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let listener = listen(ListenAddress { ip: None, port }).unwrap();
        for ip in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            TcpStream::connect((ip, port)).await.unwrap();
        }
        let taken = listen(ListenAddress { ip: None, port });
        assert_eq!(taken.unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        // Its connections are in TIME_WAIT or not yet accepted.
        listen(ListenAddress { ip: None, port }).unwrap();
    }
}
