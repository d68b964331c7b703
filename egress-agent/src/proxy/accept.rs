//! Accepts redirected connections, finds whose each one is, and hands it to HTTP or TLS.
//!
//! A connection without an origin, above the limit, or on a port where nothing is listed ends here.

use super::flow::{Client, Rewound};
use super::sniff::{Sniffed, sniff};
use super::{DrainSignal, Refusal, RefusalReason, Shared, http, mixed, tcp, tls};
use egress_core::routing::{PortKind, TcpDecision};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};

/// How long accepting pauses when the system has no room (EMFILE, ENOBUFS).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves a listener until a drain is over. Dropping the future ends all its connections.
pub async fn serve(listener: TcpListener, shared: Arc<Shared>, mut drain: DrainSignal) {
    let mut connections = JoinSet::new();
    let signal = drain.clone();
    let mut failing = false;
    let deadline = loop {
        tokio::select! {
            biased;
            deadline = drain.started() => break deadline,
            Some(ended) = connections.join_next() => report_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    failing = false;
                    connections.spawn(connection(stream, peer, Arc::clone(&shared), signal.clone()));
                }
                Err(error) => {
                    // Told once: it goes on for as long as there is no room.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(target: "egress::proxy", %error, "cannot accept");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    };
    drop(listener);
    let all_ended = async {
        while let Some(ended) = connections.join_next().await {
            report_panic(ended);
        }
    };
    if timeout_at(deadline, all_ended).await.is_err() {
        connections.shutdown().await;
    }
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(target: "egress::proxy", %error, "a connection panicked and was closed");
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared>, drain: DrainSignal) {
    let Some(origin) = shared.origins.origin(stream.as_fd()) else {
        let refusal = Refusal {
            peer,
            name: None,
            reason: RefusalReason::NoOrigin,
            audit: false,
        };
        return shared.observer.refused(None, &refusal);
    };
    let client = Client {
        shared: Arc::clone(&shared),
        origin: Arc::new(origin),
        peer,
    };
    let origin = &client.origin;
    let Some(_place) = shared.connections.take(origin.cgroup) else {
        return client.refuse(RefusalReason::ConnectionLimit, None);
    };
    let (kind, otherwise) = {
        let routes = shared.routes.load();
        let names = routes.port(origin.policy, origin.destination.port());
        let kind = names
            .filter(|n| !n.hosts.is_empty() || !n.tls.is_empty())
            .map(|n| n.kind);
        (
            kind,
            routes.tcp(origin.policy, origin.destination, shared.next_turn()),
        )
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(target: "egress::proxy", %error, "no TCP_NODELAY");
    }
    match (kind, otherwise) {
        (Some(PortKind::Tls), TcpDecision::Unlisted) => {
            tls::pass_through(client, stream, Vec::new(), None).await;
        }
        (Some(kind), TcpDecision::Unlisted) => sniffed(client, stream, kind, drain).await,
        (None, TcpDecision::Relay(cluster) | TcpDecision::RelayNonHttp(cluster)) => {
            tcp::relay(client, Vec::new(), stream, &cluster).await;
        }
        (Some(_), TcpDecision::RelayNonHttp(cluster)) => {
            mixed::by_protocol(client, stream, &cluster, drain).await;
        }
        (Some(_), TcpDecision::Relay(cluster)) => {
            mixed::by_name(client, stream, &cluster, drain).await;
        }
        (None, TcpDecision::Unlisted) => {
            tcp::refuse(
                client,
                Vec::new(),
                stream,
                RefusalReason::UnlistedPort,
                None,
            )
            .await;
        }
    }
}

/// Reads ahead as far as it takes to know the protocol.
async fn sniffed(client: Client, mut stream: TcpStream, kind: PortKind, mut drain: DrainSignal) {
    let limits = client.shared.limits;
    let patience = if kind == PortKind::Http {
        limits.idle
    } else {
        limits.name
    };
    let mut ahead = Vec::new();
    let look = async {
        loop {
            let found = sniff(&ahead);
            // A request line longer than a whole head may be is for the HTTP parser to refuse.
            if found != Sniffed::NeedMore || ahead.len() > limits.head {
                return Ok(found);
            }
            if stream.read_buf(&mut ahead).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    };
    // A connection on which nothing was asked yet has nothing to finish.
    let found: std::io::Result<Sniffed> = tokio::select! {
        found = timeout(patience, look) => match found {
            Ok(found) => found,
            Err(_) => {
                return tcp::refuse(client, ahead, stream, RefusalReason::NameTimeout, None).await;
            }
        },
        _ = drain.started() => return,
    };
    let Ok(found) = found else {
        // Connections that are opened ahead and never used are no finding.
        if !ahead.is_empty() {
            client.refuse(RefusalReason::EndedEarly, None);
        }
        return;
    };
    let audits = client.shared.routes.load().audits(client.origin.policy);
    let reason = match (kind, found) {
        (PortKind::Sniff, Sniffed::Tls) => {
            return tls::pass_through(client, stream, ahead, None).await;
        }
        (_, Sniffed::Http11) => {
            return http::serve(client, Rewound::new(ahead, stream), drain).await;
        }
        // Answered as HTTP that is malformed.
        (PortKind::Http, Sniffed::Unknown | Sniffed::NeedMore) if !audits => {
            return http::serve(client, Rewound::new(ahead, stream), drain).await;
        }
        (_, Sniffed::Http2) => RefusalReason::Http2,
        (_, Sniffed::Tls) => RefusalReason::WrongProtocol,
        // On a port that is sniffed an HTTP/1.0 flow is TCP to Istio, and no TCP is listed.
        (_, Sniffed::Http10) => RefusalReason::Http10,
        (_, Sniffed::Unknown | Sniffed::NeedMore) => RefusalReason::UnknownProtocol,
    };
    if let Some(cluster) = client.audited(&reason, None) {
        return tcp::relay(client, ahead, stream, &cluster).await;
    }
    if kind == PortKind::Http && reason == RefusalReason::Http10 {
        client.refuse(reason, None);
        return upgrade_required(stream).await;
    }
    client.refuse(reason, None);
}

/// Envoy answers HTTP/1.0 with a status line of HTTP/1.1; hyper would answer in 1.0.
async fn upgrade_required(mut stream: TcpStream) {
    const REPLY: &[u8] =
        b"HTTP/1.1 426 Upgrade Required\r\ncontent-length: 16\r\ncontent-type: text/plain\r\n\
        server: envoy\r\nconnection: close\r\n\r\nUpgrade Required";
    // The client is refused either way; that it left is no finding.
    if stream.write_all(REPLY).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}
