//! One HTTP/2 connection of a client, from its preface to its end.
//!
//! It takes streams from the library and owns their tasks; `stream` serves each.

use super::super::judge::Judge;
use super::super::session::Session;
use super::pace::{LAST, Pace, Paced};
use super::room::{ConnectionRoom, StreamRoom};
use super::stream::{self, Served};
use crate::proxy::client::Client;
use crate::proxy::drain::{ConnectionDrain, FIRST_REQUEST};
use crate::proxy::field_room::KeptLists;
use crate::proxy::frame_watch::{FrameWatch, Unruly};
use crate::proxy::http2_memory::{SEND_BUFFER, WINDOW};
use crate::proxy::observe::{DenialReason, Protocol};
use crate::proxy::places::Place;
use crate::proxy::stream::Rewound;
use bytes::Bytes;
use egress_core::http::field_list::FIELD;
use egress_core::http::resets::ResetLimit;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{HeaderMap, Request};
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncWriteExt as _, copy, sink};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};

/// Streams of one connection at one time (Envoy's default). Each takes memory of its workload's share.
const STREAMS: u32 = 1024;

/// Streams of one connection that wait for memory at one time. Further ones are denied at once.
const MAX_PENDING: usize = 8;
/// Bytes of the head of a stream that may wait.
const WAITING_HEAD: usize = 8 * 1024;

/// Streams of one read that the client may have reset in the same read. [`ResetLimit`] counts them.
const RESET_AT_ONCE: usize = 1024;

/// SETTINGS, and GOAWAY with ENHANCE_YOUR_CALM before the first stream (RFC 9113 §6.8), for a client that gets no more.
const REFUSED: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b";

/// How long a connection without streams keeps the HTTP library on its upstream side.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// The next stream, or `None` at the client's end.
type Accepted = Result<Option<(Request<RecvStream>, SendResponse<Bytes>)>, Cut>;

/// Why a connection ends before its client's end.
enum Cut {
    Unruly(Unruly),
    /// By the library, which has told the client.
    Broken(h2::Error),
}

/// Serves a connection until it ends or the drain lets it go.
pub(in crate::proxy) async fn serve(client: Client, stream: Rewound, drain: ConnectionDrain) {
    let idle = client.shared.limits.idle;
    let counters = stream.counters();
    let judge = Judge::new(client.clone());
    tokio::select! {
        () = served(client, stream, drain) => {}
        // Each of these ends the connection at once, with its streams.
        () = counters.silence(idle) => {}
        // Each stream has a judge of its own.
        () = judge.removed(|| false) => {}
    }
}

async fn served(client: Client, stream: Rewound, mut drain: ConnectionDrain) {
    let Some(room) = ConnectionRoom::take(&client).await else {
        client.deny(DenialReason::MemoryLimit, None);
        return refuse(stream).await;
    };
    let limits = client.shared.limits;
    // `stream_head` has the exact limit, and a reason for the log.
    let list = 2 * limits.head;
    let watch = FrameWatch::of_client(&client, list);
    let lists = watch.lists();
    let (stream, pace) = Paced::new(stream, watch, limits.idle);
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(room.window())
        .max_send_buffer_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESET_AT_ONCE)
        .max_header_list_size(u32::try_from(list).unwrap_or(u32::MAX));
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
        lists,
        tasks: JoinSet::new(),
        resets: ResetLimit::default(),
        waiting: Arc::default(),
        leaving: Vec::new(),
    };
    streams.serve(connection, &pace, drain).await;
}

/// Tells a client that the connection is not served.
async fn refuse(mut stream: Rewound) {
    // The connection ends in any case.
    let _ = timeout(LAST, async {
        stream.write_all(REFUSED).await?;
        stream.shutdown().await?;
        // Closing with unread bytes would reset the connection, and the client would lose the frames.
        copy(&mut stream, &mut sink()).await
    })
    .await;
}

/// Drives the library, one read of the socket after the other.
async fn paced<F: Future>(future: F, pace: &Pace) -> F::Output {
    let mut future = std::pin::pin!(future);
    poll_fn(|cx| poll_paced(pace, true, || future.as_mut().poll(cx))).await
}

fn poll_paced<T>(pace: &Pace, may_read: bool, mut poll: impl FnMut() -> Poll<T>) -> Poll<T> {
    loop {
        let polled = poll();
        if polled.is_ready() || !may_read || !pace.resume() {
            return polled;
        }
    }
}

/// The streams of one connection.
struct Streams {
    session: Arc<Session>,
    /// The memory of trailers.
    lists: Arc<KeptLists>,
    tasks: JoinSet<Served>,
    resets: ResetLimit,
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
            // Some of so many are of streams that the client has reset. They end soon, and wake this task.
            let may_read = self.tasks.len() <= STREAMS as usize;
            tokio::select! {
                biased;
                Some(ended) = self.tasks.join_next() => {
                    if !self.ended(ended) {
                        return self.end(connection, Unruly::Resets).await;
                    }
                }
                accepted = poll_fn(|cx| poll_accept(&mut connection, pace, may_read, &mut self.leaving, cx)) => match accepted {
                    Ok(Some((request, respond))) => {
                        resting = false;
                        self.begin(request, respond);
                    }
                    Err(Cut::Unruly(unruly)) => return self.end(connection, unruly).await,
                    Err(Cut::Broken(error)) => return self.broken(&error),
                    Ok(None) => return,
                },
                () = drain.started(), if !draining => {
                    draining = true;
                    connection.graceful_shutdown();
                }
                // A disabled branch is still evaluated, so the timers are made where they are polled.
                () = async { sleep(FIRST_REQUEST).await }, if draining && idle => {
                    if !connection.has_streams() {
                        return;
                    }
                }
                () = async { sleep(IDLE_TIME).await }, if idle && !draining && !resting => {
                    session.rest().await;
                    resting = true;
                }
                never = session.pool.watch(), if resting => match never {},
            }
        }
    }

    fn begin(&mut self, mut request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        let session = Arc::clone(&self.session);
        let head = head_size(request.headers());
        let mut room = StreamRoom::ask(&session.client, head);
        if !room.is_taken() {
            // This stream's own copy comes on top.
            if Arc::strong_count(&self.waiting) > MAX_PENDING || head > WAITING_HEAD {
                room.give_up();
                shed(request.headers_mut());
            } else {
                room.waits(Arc::clone(&self.waiting));
            }
        }
        let trailers = self.lists.of(respond.stream_id().as_u32());
        let serving = stream::serve(session, request, respond, room);
        self.tasks.spawn(async move {
            let _trailers = trailers;
            serving.await
        });
    }

    /// False if the client resets too many.
    fn ended(&mut self, ended: Result<Served, JoinError>) -> bool {
        match ended {
            Ok(served) => {
                if self.tasks.is_empty() {
                    self.lists.clear();
                }
                self.leaving.extend(served.place);
                return self.resets.over(served.is_premature);
            }
            Err(error) if error.is_panic() => {
                tracing::error!(target: "egress::proxy", %error, "a stream panicked and was reset");
            }
            Err(_) => {}
        }
        true
    }

    /// Ends the connection of a client that breaks a bound.
    async fn end(&mut self, mut connection: Connection<Paced, Bytes>, unruly: Unruly) {
        let reason = match unruly {
            Unruly::NoRoom => DenialReason::MemoryLimit,
            Unruly::Flood(_) | Unruly::Resets | Unruly::Unfinished => {
                DenialReason::MalformedHttp(unruly.to_string())
            }
        };
        self.session.client.deny(reason, None);
        self.tasks.abort_all();
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        // A client that does not read does not get the frame.
        let _ = timeout(2 * LAST, poll_fn(|cx| connection.poll_closed(cx))).await;
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
    may_read: bool,
    leaving: &mut Vec<Place>,
    cx: &mut Context<'_>,
) -> Poll<Accepted> {
    let accepted = poll_paced(pace, may_read, || connection.poll_accept(cx));
    if let Some(unruly) = pace.unruly() {
        return Poll::Ready(Err(Cut::Unruly(unruly)));
    }
    if accepted.is_pending() && !pace.is_blocked() {
        leaving.clear();
    }
    accepted.map(|accepted| accepted.transpose().map_err(Cut::Broken))
}

/// Leaves only the fields that decide how a stream without memory is denied.
fn shed(headers: &mut HeaderMap) {
    let all = std::mem::take(headers);
    for name in [HOST, CONTENT_TYPE] {
        if let Some(value) = all.get(&name) {
            headers.insert(name, value.clone());
        }
    }
}

fn head_size(headers: &HeaderMap) -> usize {
    let fields = headers.iter();
    fields
        .map(|(name, value)| name.as_str().len() + value.len() + FIELD)
        .sum()
}
