//! Makes a connection to one of several addresses, with TLS if the rules ask for it.
//!
//! It sends no data of a client, and does not decide which destinations are allowed.

use super::dial::Way;
use super::stream::Stream;
use super::tls::failure::not_ready;
use super::tls::{BLOCKS, Failed, Peer};
use super::workload::Workload;
use crate::proxy::client::Client;
use crate::proxy::observe::{AccessRecord, DenialReason};
use crate::proxy::places::Place;
use egress_core::http::upstream_reset::{UpstreamReset, connect_failure};
use egress_core::routing::Cluster;
use egress_core::traffic::{Keepalive, Outcome};
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// Attempts of a TCP or TLS connection.
const TRIES: u32 = 3;
/// The base interval of the back-off between them.
const BACK_OFF: Duration = Duration::from_millis(25);

/// A connection that is ready for data.
pub(in crate::proxy) struct Connected {
    pub(in crate::proxy) stream: Stream,
    pub(in crate::proxy) place: Place,
    /// Where it leads.
    pub(in crate::proxy) address: SocketAddr,
}

/// Connects to an endpoint of a cluster, and makes the TLS handshake if it is a `peer`'s; both in the time of one
/// connect.
pub(in crate::proxy) async fn connect(
    client: &Client,
    to: &Way<'_>,
    peer: Option<&Peer>,
) -> Result<Connected, UpstreamReset> {
    let pool = &to.cluster.policy.pool;
    let Some(place) = client.shared.descriptors.take(client.share()) else {
        client.deny(DenialReason::ConnectionLimit, None);
        let limit = "too many open connections of this workload";
        return Err(UpstreamReset::Overflow(Some(limit)));
    };
    let limit = pool.connect_timeout.unwrap_or(client.shared.limits.connect);
    let connected = timeout(limit, open(client, to, peer, place)).await;
    connected.unwrap_or_else(|_| {
        to.suspect(to.first);
        Err(UpstreamReset::ConnectTimeout)
    })
}

/// Has the kernel send keepalive probes. Envoy's settings are whole seconds too, at least 1.
fn probe(stream: &TcpStream, keepalive: Keepalive) -> rustix::io::Result<()> {
    let whole = |span: Duration| Duration::from_secs(span.as_secs().max(1));
    set_socket_keepalive(stream, true)?;
    if let Some(time) = keepalive.time {
        set_tcp_keepidle(stream, whole(time))?;
    }
    if let Some(interval) = keepalive.interval {
        set_tcp_keepintvl(stream, whole(interval))?;
    }
    if let Some(probes) = keepalive.probes {
        set_tcp_keepcnt(stream, probes)?;
    }
    Ok(())
}

/// Connects to the first address that answers. Notes the address and the number of attempts in the
/// record.
pub(in crate::proxy) async fn connect_any(
    client: &Client,
    (cluster, workload, peer): (&Cluster, Option<&Workload>, Option<&Peer>),
    order: &[SocketAddr],
    record: &mut AccessRecord,
) -> Result<Connected, UpstreamReset> {
    let mut last = UpstreamReset::ConnectTimeout;
    for (attempt, to) in (0..TRIES).zip(order.iter().cycle()) {
        if attempt > 0 {
            sleep(jitter(BACK_OFF * ((1 << attempt) - 1))).await;
        }
        record.attempts += 1;
        record.upstream = Some(*to);
        let way = Way {
            cluster,
            workload,
            first: *to,
            order,
        };
        let connected = connect(client, &way, peer).await;
        let address = connected.as_ref().map_or(*to, |c| c.address);
        record.upstream = Some(address);
        if let Some(workload) = workload {
            workload.note(cluster, address, outcome(&connected));
        }
        match connected {
            Ok(connected) => return Ok(connected),
            Err(reset) => last = reset,
        }
    }
    Err(last)
}

/// One connection, ready for data.
async fn open(
    client: &Client,
    to: &Way<'_>,
    peer: Option<&Peer>,
    place: Place,
) -> Result<Connected, UpstreamReset> {
    let connected = to.dial(client, place).await;
    let (address, stream, place) = connected.map_err(|error| reset_of(&error))?;
    if let Some(keepalive) = to.cluster.policy.pool.keepalive
        && let Err(error) = probe(&stream, keepalive)
    {
        tracing::debug!(target: "egress::proxy", %error, "keepalive of an upstream connection");
    }
    let stream = match peer {
        None => Stream::Plain(stream),
        Some(peer) => Box::pin(secure(client, peer, stream)).await?,
    };
    Ok(Connected {
        stream,
        place,
        address,
    })
}

/// TLS on a new connection.
async fn secure(client: &Client, peer: &Peer, stream: TcpStream) -> Result<Stream, UpstreamReset> {
    let Some(room) = client.shared.memory.take_many(client.share(), BLOCKS) else {
        client.deny(DenialReason::MemoryLimit, peer.host());
        let limit = "too much memory of this workload in use";
        return Err(UpstreamReset::Overflow(Some(limit)));
    };
    let secured = client.shared.tls.connect(peer, stream, room).await;
    secured.map_err(|failed| match failed {
        Failed::Handshake(reset) => reset,
        Failed::Settings(why) => {
            client.deny(DenialReason::ClientTls(why.into()), peer.host());
            not_ready()
        }
    })
}

fn outcome<T>(connected: &Result<T, UpstreamReset>) -> Outcome {
    match connected {
        Ok(_) => Outcome::Connected,
        Err(UpstreamReset::ConnectTimeout) => Outcome::TimedOut,
        Err(_) => Outcome::Lost,
    }
}

/// A random share of an interval.
fn jitter(most: Duration) -> Duration {
    let share = uuid::Uuid::new_v4().as_u128() % 1000;
    most * (share as u32) / 1000
}

/// The text of strerror(3) for a system error, without the number that Rust adds.
fn text_of(error: &io::Error) -> String {
    let code = error.raw_os_error();
    code.map_or_else(|| error.to_string(), |code| errno::Errno(code).to_string())
}

fn reset_of(error: &io::Error) -> UpstreamReset {
    let from_the_network = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
    );
    connect_failure(&text_of(error), !from_the_network)
}
