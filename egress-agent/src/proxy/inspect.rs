//! Reads ahead until a flow's protocol is known, and takes the steps that
//! `egress_core::routing::reading` returns.
//!
//! It serves nothing and decides nothing itself: it supplies the bytes and the clock.

use super::ahead::Ahead;
use super::client::Client;
use super::observe::DenialReason;
use egress_core::routing::{Patience, Reading, Sniffed, Step, only_host, sniff};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Finds the step for a flow. `ahead` has the bytes that were already read.
pub(super) async fn inspect(
    client: &Client,
    reading: &Reading,
    stream: &mut TcpStream,
    ahead: &mut Ahead,
) -> Step {
    if let Some(step) = reading.unread() {
        return step;
    }
    let limits = client.shared.limits;
    let patience = match reading.patience() {
        Patience::Idle => limits.idle,
        Patience::Name => limits.name,
        Patience::FirstBytes => limits.first_bytes,
    };
    let step = match look(client, stream, ahead, patience).await {
        Ended::As(found) => reading.first_bytes(found),
        Ended::Gone => reading.ended(!ahead.is_empty()),
        Ended::Late => reading.late(),
        Ended::NoRoom => Step::Deny(DenialReason::MemoryLimit),
    };
    match step {
        Step::HttpIfListed(to) if !is_listed(client, stream, ahead, patience).await => {
            Step::Relay(to)
        }
        Step::HttpIfListed(_) => Step::Http,
        step => step,
    }
}

/// How reading ahead ended.
enum Ended {
    As(Sniffed),
    /// The client ended its side first.
    Gone,
    /// The time is over and the protocol is not known.
    Late,
    /// The workload's memory is taken.
    NoRoom,
}

async fn look(
    client: &Client,
    stream: &mut TcpStream,
    ahead: &mut Ahead,
    patience: Duration,
) -> Ended {
    let limit = client.shared.limits.head;
    let deadline = Instant::now() + patience;
    loop {
        let found = sniff(ahead);
        // The HTTP parser rejects a request line that is longer than the limit of a head.
        if found != Sniffed::NeedMore || ahead.len() > limit {
            return Ended::As(found);
        }
        match timeout_at(deadline, ahead.read(client, stream, 1)).await {
            Ok(Ok(1..)) => {}
            Ok(Err(error)) if error.kind() == ErrorKind::OutOfMemory => return Ended::NoRoom,
            Ok(Ok(0) | Err(_)) => return Ended::Gone,
            Err(_) => return Ended::Late,
        }
    }
}

/// Reads the first head and returns whether its Host is listed. False unless there is exactly one Host line.
async fn is_listed(
    client: &Client,
    stream: &mut TcpStream,
    ahead: &mut Ahead,
    patience: Duration,
) -> bool {
    let deadline = Instant::now() + patience;
    let end = loop {
        if let Some(at) = ahead.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        if ahead.len() > client.shared.limits.head {
            return false;
        }
        match timeout_at(deadline, ahead.read(client, stream, 1)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) | Err(_) => return false,
        }
    };
    let origin = &client.origin;
    let routes = client.shared.routes.load();
    let policy = origin.policy_in(&routes);
    only_host(&ahead[..end]).is_some_and(|host| routes.lists_host(policy, origin.destination, host))
}
