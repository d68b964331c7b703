//! Makes a connection to an endpoint, with a PROXY header and TLS if the rules ask for them.
//!
//! It sends no data of a client, and does not decide which destinations are allowed.

use super::dial::Way;
use super::stream::Stream;
use super::tls::failure::not_ready;
use super::tls::{BLOCKS, Failed, Peer};
use crate::proxy::client::Client;
use crate::proxy::observe::DenialReason;
use crate::proxy::places::Place;
use egress_core::http::upstream_reset::{UpstreamReset, connect_failure};
use egress_core::traffic::Keepalive;
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

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
    let mut stream = stream;
    if let Some(version) = to.cluster.policy.proxy_protocol {
        let header = version.header(source(client, &stream), client.origin.destination);
        let written = stream.write_all(&header).await;
        written.map_err(|error| reset_of(&error))?;
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

/// The client's address for an endpoint. A redirected client dials from loopback: its packets would have left with the
/// address of the upstream connection.
fn source(client: &Client, stream: &TcpStream) -> SocketAddr {
    let peer = client.peer;
    match stream.local_addr() {
        Ok(own) if peer.ip().to_canonical().is_loopback() => SocketAddr::new(own.ip(), peer.port()),
        Ok(_) | Err(_) => peer,
    }
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
