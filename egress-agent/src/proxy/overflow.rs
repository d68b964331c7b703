//! Connections beyond their workload's share: an HTTP client gets a 503 response with the reason, any other
//! connection is closed.
//!
//! Only a few clients get the response at one time, and each for a short time, because it costs the resources
//! that the limit protects.

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
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a client has to send the start of its request and to read the reply.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The most bytes of a client that are read at a time.
const READ_SIZE: usize = 1024;

/// Writes what fits into a new socket's buffer. Does not wait, so the reactor need not know the socket. Ignores
/// errors.
pub(super) fn say(stream: &TcpStream, bytes: &[u8]) {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::send(stream.as_fd(), bytes, flags);
}

/// Takes one of the few places for clients that get a reply. If none is left, the connection is closed at once,
/// after the reply if the port speaks only HTTP.
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

/// Sends an HTTP client the reason why it is not served, and closes the connection.
pub(super) async fn tell(client: Client, mut stream: TcpStream, _place: Place) {
    // The connection ends in any case.
    let _ = timeout(TIMEOUT, async {
        if !speaks_http(&client, &mut stream).await? {
            return Ok(());
        }
        let reply = LocalReply::overflow();
        let mut ticket = Ticket::new(client, Protocol::Http, Arc::default());
        ticket.replied(&reply);
        drop(ticket);
        stream.write_all(&closing_reply(&reply)).await?;
        stream.shutdown().await?;
        // Reads the rest first: closing with unread bytes would reset the connection, and the client would lose
        // the reply.
        let mut thrown_away = [0; READ_SIZE];
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
    let mut bytes = [0; READ_SIZE];
    let mut read = 0;
    loop {
        match sniff(&bytes[..read]) {
            Sniffed::NeedMore if read < READ_SIZE => {}
            // The parser rejects a request line of this length.
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
        Step::NotHttp
        | Step::Http2
        | Step::Tls(_)
        | Step::Relay(_)
        | Step::Deny(_)
        | Step::Close => false,
    }
}
