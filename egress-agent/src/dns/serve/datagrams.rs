//! Receives queries over UDP and finds their owners.

use super::observe::QueryResult;
use super::server::Server;
use super::upstream::LIMIT;
use super::waiting::Way;
use crate::sockets;
use egress_ebpf::ids::NetnsCookie;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Longer queries are dropped. One with a name of 255 bytes and an EDNS record with padding is shorter.
const LONGEST: usize = 4096;
/// Queries that are taken before other tasks get their turn.
const AT_ONCE: usize = 64;
/// How long receiving pauses after an error that is not a client's.
const PAUSE: Duration = Duration::from_millis(20);

/// Serves one socket until `stop` is over, and then waits until the queries that it has taken are answered.
pub async fn datagrams(
    socket: Arc<UdpSocket>,
    netns: NetnsCookie,
    server: Arc<Server>,
    stop: impl Future<Output = ()>,
) {
    tokio::pin!(stop);
    tokio::select! {
        biased;
        () = &mut stop => {}
        () = receive(socket, netns, &server) => {}
    }
    let last = Instant::now() + LIMIT;
    while server.waiting.in_use() > 0 && Instant::now() < last {
        tokio::time::sleep(PAUSE).await;
    }
}

async fn receive(socket: Arc<UdpSocket>, netns: NetnsCookie, server: &Arc<Server>) {
    let Ok(local) = socket.local_addr() else {
        return;
    };
    let mut buffer = vec![0; LONGEST];
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        for _ in 0..AT_ONCE {
            let received = socket.try_io(Interest::READABLE, || {
                sockets::receive(&socket, &mut buffer)
            });
            match received {
                Ok(received) => {
                    let asker =
                        server
                            .owners
                            .asker(netns, received.from, local.port(), received.mark);
                    match (asker, received.length) {
                        (Some(asker), Some(length)) => {
                            let way = Way::Datagram(Arc::clone(&socket));
                            server.take(&buffer[..length], asker, way);
                        }
                        _ => server.queries.ended(QueryResult::Dropped),
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                // An ICMP error for an earlier reply: its client has left.
                Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot receive DNS queries");
                    tokio::time::sleep(PAUSE).await;
                    break;
                }
            }
        }
        tokio::task::yield_now().await;
    }
}
