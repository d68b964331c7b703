//! Ports where names are checked, on destinations that are listed for TCP as well: what has a listed
//! name goes by its name, everything else is relayed as if no name were listed beside it.
//!
//! It refuses nothing that TCP alone would let through.

use super::flow::{Client, Rewound};
use super::sniff::{Sniffed, sniff};
use super::{DrainSignal, RefusalReason, http, tcp, tls};
use egress_core::routing::{Cluster, HttpDecision, RequestHead};
use hyper::http::HeaderMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// The protocol is not set: HTTP is for its Host to decide, the rest is relayed.
pub(super) async fn by_protocol(
    client: Client,
    mut stream: TcpStream,
    cluster: &Arc<Cluster>,
    drain: DrainSignal,
) {
    let mut ahead = Vec::new();
    // As Istio's sniffing: the client speaks first, or nobody does.
    let found = look(&client, &mut stream, &mut ahead, client.shared.limits.name).await;
    match found {
        Found::Gone if ahead.is_empty() => {}
        Found::Late if ahead.is_empty() => {
            tcp::refuse(client, ahead, stream, RefusalReason::NameTimeout, None).await;
        }
        Found::As(Sniffed::Http11) => http::serve(client, Rewound::new(ahead, stream), drain).await,
        Found::As(Sniffed::Http2) => {
            tcp::refuse(client, ahead, stream, RefusalReason::Http2, None).await;
        }
        Found::As(Sniffed::Tls) => {
            tls::pass_through(client, stream, ahead, Some(Arc::clone(cluster))).await;
        }
        Found::As(Sniffed::Http10 | Sniffed::Unknown | Sniffed::NeedMore)
        | Found::Gone
        | Found::Late => {
            tcp::relay(client, ahead, stream, cluster).await;
        }
    }
}

/// The destination is listed as TCP: only what has a listed name is not simply relayed.
pub(super) async fn by_name(
    client: Client,
    mut stream: TcpStream,
    cluster: &Arc<Cluster>,
    drain: DrainSignal,
) {
    let mut ahead = Vec::new();
    let patience = client.shared.limits.first_bytes;
    match look(&client, &mut stream, &mut ahead, patience).await {
        Found::Gone if ahead.is_empty() => {}
        Found::As(Sniffed::Tls) => {
            tls::pass_through(client, stream, ahead, Some(Arc::clone(cluster))).await;
        }
        Found::As(Sniffed::Http11)
            if is_listed(&client, &mut stream, &mut ahead, patience).await =>
        {
            http::serve(client, Rewound::new(ahead, stream), drain).await;
        }
        Found::As(_) | Found::Gone | Found::Late => {
            tcp::relay(client, ahead, stream, cluster).await;
        }
    }
}

/// How reading ahead ended.
enum Found {
    As(Sniffed),
    /// The client ended its side first.
    Gone,
    /// Nothing was sure in time.
    Late,
}

async fn look(
    client: &Client,
    stream: &mut TcpStream,
    ahead: &mut Vec<u8>,
    patience: Duration,
) -> Found {
    let deadline = Instant::now() + patience;
    loop {
        let found = sniff(ahead);
        if found != Sniffed::NeedMore || ahead.len() > client.shared.limits.head {
            return Found::As(found);
        }
        match timeout_at(deadline, stream.read_buf(ahead)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) => return Found::Gone,
            Err(_) => return Found::Late,
        }
    }
}

/// Reads the first head and says whether its Host is listed. Anything that is not one plain Host
/// line is not.
async fn is_listed(
    client: &Client,
    stream: &mut TcpStream,
    ahead: &mut Vec<u8>,
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
        match timeout_at(deadline, stream.read_buf(ahead)).await {
            Ok(Ok(1..)) => {}
            Ok(Ok(0) | Err(_)) | Err(_) => return false,
        }
    };
    let Some(authority) = host_line(&ahead[..end]) else {
        return false;
    };
    let head = RequestHead {
        authority,
        method: "GET",
        path: "/",
        headers: &HeaderMap::new(),
    };
    let origin = &client.origin;
    let routes = client.shared.routes.load();
    let names = routes.port(origin.policy, origin.destination.port());
    !matches!(
        names.map(|n| n.by_host(origin.destination, &head, 0)),
        None | Some(HttpDecision::UnlistedHost)
    )
}

/// The value of the only Host line of a head.
fn host_line(head: &[u8]) -> Option<&str> {
    let text = str::from_utf8(head).ok()?;
    let lines = text
        .split("\r\n")
        .skip(1)
        .filter_map(|line| line.split_once(':'));
    let mut hosts = lines.filter(|(name, _)| name.eq_ignore_ascii_case("host"));
    let (_, value) = hosts.next()?;
    hosts.next().is_none().then(|| value.trim())
}
