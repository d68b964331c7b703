//! Connections that are too many of their workload: an HTTP client is told 503 with the reason, any
//! other is closed.
//!
//! Those that are being told are few, and for a short time: telling must not take what the bound
//! keeps.

use super::client::Client;
use super::http::closing_reply;
use super::observe::{DenialReason, Protocol};
use super::places::Place;
use super::ticket::Ticket;
use egress_core::http::local_reply::LocalReply;
use egress_core::routing::{PortKind, Reading, Sniffed, Step, sniff};
use rustix::net::SendFlags;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a client has for the beginning of its request and to take the reply.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a client that are looked at, and thrown away at a time.
const LOOK: usize = 1024;

/// Writes what fits into a fresh socket's buffer, without waiting for the reactor to know the socket.
/// A client that is gone gets nothing.
pub(super) fn say(stream: &TcpStream, bytes: &[u8]) {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::send(stream.as_fd(), bytes, flags);
}

/// A client beyond its share takes one of the few places of those who are told so. Where none is left
/// the connection is closed at once, with the reply on it if the port is one of HTTP only.
pub(super) fn admit(client: &Client, stream: &TcpStream) -> Option<Place> {
    client.deny(DenialReason::ConnectionLimit, None);
    let place = client.shared.telling.take(client.share());
    if place.is_none() && matches!(reading(client), Reading::Names(PortKind::Http)) {
        say(stream, &closing_reply(&LocalReply::overflow()));
    }
    place
}

fn reading(client: &Client) -> Reading {
    let routes = client.shared.routes.load();
    let policy = client.origin.policy_in(&routes);
    routes.reading(policy, client.origin.destination, 0)
}

/// Tells an HTTP client why it is not served, and closes the connection.
pub(super) async fn tell(client: Client, mut stream: TcpStream, _place: Place) {
    // Whatever comes of it, the connection ends.
    let _ = timeout(PATIENCE, async {
        if !speaks_http(&client, &mut stream).await? {
            return Ok(());
        }
        let reply = LocalReply::overflow();
        let mut ticket = Ticket::new(client, Protocol::Http, Arc::default());
        (ticket.record.response_code, ticket.record.flags) = (reply.status, reply.flags);
        let sent = reply.body.len() as u64;
        ticket.counters.sent.store(sent, Ordering::Relaxed);
        ticket.done();
        drop(ticket);
        stream.write_all(&closing_reply(&reply)).await?;
        stream.shutdown().await?;
        // To close with bytes unread would reset the connection, and the client lose the reply.
        let mut thrown_away = [0; LOOK];
        while stream.read(&mut thrown_away).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// Whether the first bytes are a request that this port would have read as HTTP.
async fn speaks_http(client: &Client, stream: &mut TcpStream) -> io::Result<bool> {
    let reading = reading(client);
    if let Some(step) = reading.unread() {
        return Ok(is_http(&step));
    }
    let mut bytes = [0; LOOK];
    let mut read = 0;
    loop {
        match sniff(&bytes[..read]) {
            Sniffed::NeedMore if read < LOOK => {}
            // A request line of this length is one for the parser to reject.
            Sniffed::NeedMore => return Ok(matches!(reading, Reading::Names(_))),
            found => return Ok(is_http(&reading.first_bytes(found))),
        }
        match stream.read(&mut bytes[read..]).await? {
            0 => return Ok(false),
            more => read += more,
        }
    }
}

fn is_http(step: &Step) -> bool {
    match step {
        Step::Http | Step::HttpIfListed(_) | Step::UpgradeRequired | Step::AnyHttp => true,
        Step::NotHttp | Step::Tls(_) | Step::Relay(_) | Step::Deny(_) | Step::Close => false,
    }
}
