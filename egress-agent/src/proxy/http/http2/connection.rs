//! One HTTP/2 connection of a client, from its preface to its end.
//!
//! It takes streams from the library and owns their tasks; `stream` serves each.

use super::super::judge::Judge;
use super::super::session::Session;
use super::pace::{Pace, Paced};
use super::room::{ConnectionRoom, SEND_BUFFER, StreamRoom, WINDOW};
use super::stream;
use crate::proxy::client::Client;
use crate::proxy::drain::{ConnectionDrain, FIRST_REQUEST};
use crate::proxy::observe::{DenialReason, Protocol};
use crate::proxy::places::Place;
use crate::proxy::stream::Rewound;
use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, Connection, SendResponse};
use hyper::{HeaderMap, Request};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

/// Streams of one connection at one time (Envoy's default). Each takes memory of its workload's share.
const STREAMS: u32 = 1024;

/// Streams of one connection that wait for memory at one time. Further ones are denied at once.
const WAITING: usize = 8;

/// How long a connection without streams keeps the HTTP library on its upstream side.
const REST: Duration = Duration::from_secs(1);

/// The bytes of a field in memory, besides name and value.
const FIELD: usize = 96;

type Accepted = Option<Result<(Request<RecvStream>, SendResponse<Bytes>), h2::Error>>;

/// Serves a connection until it ends or the drain lets it go.
pub(in crate::proxy) async fn serve(client: Client, stream: Rewound, drain: ConnectionDrain) {
    let idle = client.shared.limits.idle;
    let counters = stream.counters();
    let judge = Judge::new(client.clone());
    tokio::select! {
        () = served(client, stream, drain) => {}
        // Each of these ends the connection at once, with its streams.
        () = counters.silence(idle) => {}
        () = judge.removed() => {}
    }
}

async fn served(client: Client, stream: Rewound, mut drain: ConnectionDrain) {
    let Some(room) = ConnectionRoom::take(&client).await else {
        return client.deny(DenialReason::MemoryLimit, None);
    };
    let limits = client.shared.limits;
    let (stream, pace) = Paced::new(stream);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(room.window())
        .max_send_buffer_size(SEND_BUFFER)
        // `stream_head` has the exact limit, and a reason for the log.
        .max_header_list_size(u32::try_from(2 * limits.head).unwrap_or(u32::MAX));
    let handshake = builder.handshake(stream);
    let connection = tokio::select! {
        shaken = timeout(limits.idle, paced(handshake, &pace)) => match shaken {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) => return client.deny(DenialReason::MalformedHttp(error.to_string()), None),
            Err(_) => return,
        },
        () = drain.started_unused() => return,
    };
    let session = Arc::new(Session::new(client, Protocol::Http2));
    let mut streams = Streams {
        session,
        tasks: JoinSet::new(),
        waiting: Arc::default(),
        leaving: Vec::new(),
    };
    streams.serve(connection, &pace, drain).await;
}

/// Drives the library, one read of the socket after the other.
async fn paced<F: Future>(future: F, pace: &Pace) -> F::Output {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| poll_paced(pace, || future.as_mut().poll(cx))).await
}

fn poll_paced<T>(pace: &Pace, mut poll: impl FnMut() -> Poll<T>) -> Poll<T> {
    loop {
        let polled = poll();
        if polled.is_ready() || !pace.resume() {
            return polled;
        }
    }
}

/// The streams of one connection.
struct Streams {
    session: Arc<Session>,
    tasks: JoinSet<Option<Place>>,
    /// Each stream that waits for memory holds a copy.
    waiting: Arc<()>,
    /// The memory of streams whose last bytes may not be on the wire yet.
    leaving: Vec<Place>,
}

impl Streams {
    async fn serve(
        &mut self,
        mut connection: Connection<Paced, Bytes>,
        pace: &Pace,
        mut drain: ConnectionDrain,
    ) {
        let session = Arc::clone(&self.session);
        let (mut draining, mut resting) = (false, false);
        loop {
            let idle = self.tasks.is_empty();
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next() => self.ended(ended),
                accepted = poll_fn(|cx| poll_accept(&mut connection, pace, &mut self.leaving, cx)) => match accepted {
                    Some(Ok((request, respond))) => {
                        resting = false;
                        self.begin(request, respond);
                    }
                    Some(Err(error)) => return self.broken(&error),
                    None => return,
                },
                () = drain.started(), if !draining => {
                    draining = true;
                    connection.graceful_shutdown();
                }
                () = sleep(FIRST_REQUEST), if draining && idle => {
                    if !connection.has_streams() {
                        return;
                    }
                }
                () = sleep(REST), if idle && !draining && !resting => {
                    session.rest().await;
                    resting = true;
                }
                never = session.pool.watch(), if resting => match never {},
            }
        }
    }

    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let session = Arc::clone(&self.session);
        let head = head_size(request.headers());
        let mut room = StreamRoom::ask(&session.client, head);
        if !room.is_taken() {
            // This stream's own copy comes on top.
            if Arc::strong_count(&self.waiting) > WAITING {
                room.give_up();
            } else {
                room.waits(Arc::clone(&self.waiting));
            }
        }
        self.tasks
            .spawn(stream::serve(session, request, respond, room));
    }

    fn ended(&mut self, ended: Result<Option<Place>, JoinError>) {
        match ended {
            Ok(place) => self.leaving.extend(place),
            Err(error) if error.is_panic() => {
                tracing::error!(target: "egress::proxy", %error, "a stream panicked and was reset");
            }
            Err(_) => {}
        }
    }

    /// The library has told the client.
    fn broken(&self, error: &h2::Error) {
        if error.is_library() && error.is_go_away() {
            let reason = DenialReason::MalformedHttp(format!("HTTP/2: {error}"));
            self.session.client.deny(reason, None);
        }
    }
}

/// The next stream. Returns the memory in `leaving` once everything that the library had is written.
fn poll_accept(
    connection: &mut Connection<Paced, Bytes>,
    pace: &Pace,
    leaving: &mut Vec<Place>,
    cx: &mut Context<'_>,
) -> Poll<Accepted> {
    let accepted = poll_paced(pace, || connection.poll_accept(cx));
    if accepted.is_pending() && !pace.is_blocked() {
        leaving.clear();
    }
    accepted
}

fn head_size(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD)
        .sum()
}
