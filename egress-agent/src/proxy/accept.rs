//! Accepts redirected connections, finds the owner of each, and passes it to HTTP, TLS or TCP.
//!
//! A connection without an origin, beyond a limit, or on a port where nothing is listed ends here.

use super::ahead::Ahead;
use super::client::Client;
use super::drain::{ConnectionDrain, DrainSignal};
use super::inspect::inspect;
use super::observe::{Denial, DenialReason};
use super::overflow;
use super::places::Place;
use super::shared::Shared;
use super::stream::Rewound;
use crate::proxy::http;
use crate::proxy::tcp;
use crate::proxy::tls;
use egress_core::routing::{Reading, Step, Turn};
use egress_ebpf::abi::{DNS_PORT, PROOF_POLICY};
use std::net::SocketAddr;
use std::ops::Deref;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout_at};

/// How long accepting pauses if the system is out of resources (EMFILE, ENOBUFS).
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves a listener until a drain is over. Drops the listener when the drain starts. Dropping the future closes
/// all its connections.
pub async fn serve(
    listener: impl Deref<Target = TcpListener>,
    shared: Arc<Shared>,
    mut drain: DrainSignal,
) {
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
                    // Called before the next accept, so that a rejected connection is already closed.
                    match admit(&stream, peer, &shared) {
                        Some(Admitted::Served(client, places)) => {
                            let drain = signal.connection();
                            connections.spawn(connection(stream, client, places, drain));
                        }
                        Some(Admitted::Told(client, place)) => {
                            connections.spawn(overflow::tell(client, stream, place));
                        }
                        None => {}
                    }
                }
                Err(error) => {
                    // Logged once: the error repeats as long as resources are missing.
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(target: "egress::proxy", %error, "cannot accept connections");
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

/// A connection that is not closed at once.
enum Admitted {
    /// It has its places.
    Served(Client, [Place; 2]),
    /// No places are left: its client gets a reply that says so.
    Told(Client, Place),
}

/// The owner of the connection, and its places in total and in the workload's share.
fn admit(stream: &TcpStream, peer: SocketAddr, shared: &Arc<Shared>) -> Option<Admitted> {
    let origin = shared.origins.origin(stream.as_fd());
    let unowned = match &origin {
        None => Some(DenialReason::NoOrigin),
        // If the canary has left, the write fails, and the canary has not passed.
        Some(origin) if origin.policy == PROOF_POLICY => {
            overflow::say(stream, shared.proof.as_bytes());
            return None;
        }
        Some(origin) if origin.has_unknown_owner() => Some(DenialReason::UnknownOwner),
        Some(_) => None,
    };
    if let Some(reason) = unowned {
        let denial = Denial {
            peer,
            name: None,
            reason,
            audit: false,
        };
        shared.observer.denied(origin.as_ref(), &denial);
        return None;
    }
    let client = Client {
        shared: Arc::clone(shared),
        origin: Arc::new(origin?),
        peer,
    };
    let share = client.share();
    let places = shared
        .connections
        .take(share)
        .zip(shared.descriptors.take(share));
    let Some((connection, descriptor)) = places else {
        let place = overflow::admit(&client, stream);
        return place.map(|place| Admitted::Told(client, place));
    };
    Some(Admitted::Served(client, [connection, descriptor]))
}

async fn connection(
    mut stream: TcpStream,
    client: Client,
    _places: [Place; 2],
    drain: ConnectionDrain,
) {
    let mut waiting = drain.clone();
    if let Some(dns) = &client.shared.dns
        && client.origin.destination.port() == DNS_PORT
    {
        tokio::select! {
            () = dns.serve(Arc::clone(&client.origin), client.peer, stream) => {}
            () = waiting.started_unused() => {}
        }
        return;
    }
    let (shared, origin) = (&client.shared, &client.origin);
    let reading = {
        let routes = shared.routes.load();
        routes.reading(origin.policy_in(&routes), origin.destination, Turn::Next)
    };
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(target: "egress::proxy", %error, "no TCP_NODELAY");
    }
    let mut ahead = Ahead::default();
    // A connection that has not sent a name yet has no request to finish.
    let step = tokio::select! {
        step = inspect(&client, &reading, &mut stream, &mut ahead) => step,
        () = waiting.started_unused(), if matches!(reading, Reading::Names(_) | Reading::NamesOrDenied(_)) => return,
    };
    take(client, step, stream, ahead, drain).await;
}

/// Carries out the step that the first bytes lead to. Each future is boxed, so that a connection uses only the
/// memory of its own.
async fn take(client: Client, step: Step, stream: TcpStream, ahead: Ahead, drain: ConnectionDrain) {
    match step {
        Step::Http | Step::HttpIfListed(_) => {
            Box::pin(http::serve(client, Rewound::new(ahead, stream), drain)).await;
        }
        // The parser answers it and gives the reason.
        Step::NotHttp => match client.audited(&DenialReason::UnknownProtocol, None) {
            Some(cluster) => Box::pin(tcp::relay(client, ahead, stream, &cluster)).await,
            None => Box::pin(http::serve(client, Rewound::new(ahead, stream), drain)).await,
        },
        // As for `NotHttp`.
        Step::UpgradeRequired => match client.audited(&DenialReason::Http10, None) {
            Some(cluster) => Box::pin(tcp::relay(client, ahead, stream, &cluster)).await,
            None => Box::pin(http::serve(client, Rewound::new(ahead, stream), drain)).await,
        },
        Step::AnyHttp => {
            Box::pin(http::serve_any(client, Rewound::new(ahead, stream), drain)).await;
        }
        Step::Http2 => {
            Box::pin(http::serve_http2(
                client,
                Rewound::new(ahead, stream),
                drain,
            ))
            .await;
        }
        Step::Tls(otherwise) => Box::pin(tls::pass_through(client, stream, ahead, otherwise)).await,
        Step::Relay(cluster) => Box::pin(tcp::relay(client, ahead, stream, &cluster)).await,
        Step::Deny(reason) => Box::pin(tcp::deny(client, ahead, stream, reason, None)).await,
        Step::Close => {}
    }
}
