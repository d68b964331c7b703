//! Accepts redirected connections, finds the owner of each, and hands it to HTTP or TLS.
//!
//! A connection without an origin, above the limit, or on a port where nothing is listed ends here.

use super::ahead::Ahead;
use super::client::Client;
use super::drain::DrainSignal;
use super::inspect::inspect;
use super::observe::{Refusal, RefusalReason};
use super::places::Place;
use super::shared::Shared;
use super::stream::Rewound;
use crate::proxy::http;
use crate::proxy::tcp;
use crate::proxy::tls;
use egress_core::routing::{PortKind, Reading, Step, Turn};
use egress_ebpf::abi::PROOF_POLICY;
use rustix::net::SendFlags;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

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
                    // Before the next is accepted: one that may not stay takes no descriptor then.
                    if let Some((client, places)) = admit(&stream, peer, &shared) {
                        connections.spawn(connection(stream, client, places, signal.clone()));
                    }
                }
                Err(error) => {
                    // Logged once: it lasts as long as there is no room.
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

/// Answered to a client beyond its share where HTTP is spoken, instead of closing without a byte.
const OVERFLOW: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 81\r\ncontent-type: text/plain\r\n\
    server: envoy\r\nconnection: close\r\n\r\n\
    upstream connect error or disconnect/reset before headers. reset reason: overflow";

/// Writes what fits into a fresh socket's buffer, without waiting for the reactor to know the socket.
/// A client that is gone gets nothing.
fn say(stream: &TcpStream, bytes: &[u8]) {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let _ = rustix::net::send(stream.as_fd(), bytes, flags);
}

/// Whose connection it is, and its places among all and in the workload's share.
fn admit(
    stream: &TcpStream,
    peer: SocketAddr,
    shared: &Arc<Shared>,
) -> Option<(Client, [Place; 2])> {
    let Some(origin) = shared.origins.origin(stream.as_fd()) else {
        let refusal = Refusal {
            peer,
            name: None,
            reason: RefusalReason::NoOrigin,
            audit: false,
        };
        shared.observer.refused(None, &refusal);
        return None;
    };
    let client = Client {
        shared: Arc::clone(shared),
        origin: Arc::new(origin),
        peer,
    };
    if client.origin.policy == PROOF_POLICY {
        // A canary that left already proves nothing.
        say(stream, shared.proof.as_bytes());
        return None;
    }
    let share = client.share();
    let places = shared
        .connections
        .take(share)
        .zip(shared.descriptors.take(share));
    let Some((connection, descriptor)) = places else {
        client.refuse(RefusalReason::ConnectionLimit, None);
        let routes = shared.routes.load();
        let policy = client.origin.policy_in(&routes);
        let reading = routes.reading(policy, client.origin.destination, 0);
        if reading == Reading::Names(PortKind::Http) {
            say(stream, OVERFLOW);
        }
        return None;
    };
    Some((client, [connection, descriptor]))
}

async fn connection(
    mut stream: TcpStream,
    client: Client,
    _places: [Place; 2],
    drain: DrainSignal,
) {
    let mut waiting = drain.clone();
    let (shared, origin) = (&client.shared, &client.origin);
    let reading = {
        let routes = shared.routes.load();
        routes.reading(origin.policy_in(&routes), origin.destination, Turn::Next)
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(target: "egress::proxy", %error, "no TCP_NODELAY");
    }
    let mut ahead = Ahead::default();
    // A connection that names are expected on, and on which nothing was asked yet, has nothing to
    // finish.
    let step = tokio::select! {
        step = inspect(&client, &reading, &mut stream, &mut ahead) => step,
        _ = waiting.started(), if matches!(reading, Reading::Names(_) | Reading::NamesOrDenied(_)) => return,
    };
    take(client, step, stream, ahead, drain).await;
}

/// Carries out what the first bytes mean.
async fn take(client: Client, step: Step, stream: TcpStream, ahead: Ahead, drain: DrainSignal) {
    match step {
        Step::Http | Step::HttpIfListed(_) => {
            http::serve(client, Rewound::new(ahead, stream), drain).await;
        }
        // The parser answers it, and tells why.
        Step::NotHttp => match client.audited(&RefusalReason::UnknownProtocol, None) {
            Some(cluster) => tcp::relay(client, ahead, stream, &cluster).await,
            None => http::serve(client, Rewound::new(ahead, stream), drain).await,
        },
        // As for `NotHttp`.
        Step::UpgradeRequired => match client.audited(&RefusalReason::Http10, None) {
            Some(cluster) => tcp::relay(client, ahead, stream, &cluster).await,
            None => http::serve(client, Rewound::new(ahead, stream), drain).await,
        },
        Step::AnyHttp => http::serve_any(client, Rewound::new(ahead, stream), drain).await,
        Step::Tls(otherwise) => tls::pass_through(client, stream, ahead, otherwise).await,
        Step::Relay(cluster) => tcp::relay(client, ahead, stream, &cluster).await,
        Step::Refuse(reason) => tcp::refuse(client, ahead, stream, reason, None).await,
        Step::Close => {}
    }
}
