//! The HTTP listener of metrics and health, and its limits. Workloads may be able to reach it, so each client may be
//! hostile: few connections, few of them a second, one request on each, and a short time for it.

use super::answer::{self, Sources};
use super::collect::Collector;
use crate::config::ListenAddress;
use crate::operate::ask::Detail;
use crate::operate::reporter::Reporter;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
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
const AGAIN: Duration = Duration::from_millis(500);
/// Time after a failed accept.
const REST: Duration = Duration::from_millis(100);

/// Serves metrics and health at `address`. Does not return. The gate works without them, so an agent that cannot listen
/// logs that once and tries again: an agent that stops may still hold the port.
pub async fn serve(address: ListenAddress, reporter: Arc<Reporter>) {
    let sources = Arc::new(Sources {
        reporter,
        values: Collector::default(),
    });
    let ask = || sources.reporter.status(Detail::Numbers);
    tokio::join!(
        sources.values.run(ask),
        listen_and_answer(address, &sources)
    );
}

async fn listen_and_answer(address: ListenAddress, sources: &Arc<Sources>) {
    let mut told = false;
    let listener = loop {
        match listen(address) {
            Ok(listener) => break listener,
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(
                        %address,
                        %error,
                        "cannot listen for metrics and health; the gate is not affected; trying again (monitoring.address)"
                    );
                }
                sleep(AGAIN).await;
            }
        }
    };
    tracing::info!(%address, "serving metrics and health");
    accept(listener, sources).await;
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

/// Accepts connections, not too many a second. Does not return. Dropping the future ends the connections.
async fn accept(listener: TcpListener, sources: &Arc<Sources>) {
    let mut clients = Clients::default();
    let mut next = Instant::now();
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "accepting a client of metrics and health failed");
                sleep(REST).await;
                continue;
            }
        };
        clients.add(peer.ip(), serve_one(stream, Arc::clone(sources)));
        next = next.max(Instant::now()) + PACE;
        sleep_until(next - PACE * BURST).await;
    }
}

async fn serve_one(stream: TcpStream, sources: Arc<Sources>) {
    let service = service_fn(|request: Request<Incoming>| {
        let sources = Arc::clone(&sources);
        async move { Ok::<_, Infallible>(answer::answer(&sources, &request).await) }
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .keep_alive(false);
    // A client that is cut off or sends no HTTP is not worth a line.
    let _ = timeout(
        WHOLE,
        builder.serve_connection(TokioIo::new(stream), service),
    )
    .await;
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
