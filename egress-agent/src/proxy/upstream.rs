//! Upstream connections: tries to make one, and the few idle ones that a client connection keeps.
//!
//! Connections are never shared between client connections, so no workload can meet another's.

use super::flow::{Client, OwnedTask};
use super::places::Place;
use super::request_body::RequestBody;
use super::responses::{Reading, Responses};
use super::{AccessRecord, RefusalReason};
use egress_core::http::local_reply::{UpstreamReset, connect_failure};
use egress_core::routing::Cluster;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// One try and two retries, Istio's default for a connection that could not be made
/// (`pilot/pkg/networking/core/route/retry/retry.go`).
const TRIES: u32 = 3;
/// Bytes that an upstream connection buffers either way, and so of a response head (Envoy takes 60 KiB).
const BUFFER: usize = 64 * 1024;
/// Blocks of memory that an idle connection takes.
const IDLE: usize = 6;
/// Blocks of memory that reads of up to [`BUFFER`] bytes take.
const WIDE: usize = 32;
/// Envoy's base interval of the jittered exponential back-off between tries.
const BACK_OFF: Duration = Duration::from_millis(25);

/// Connects to the first address that answers; the record gets the address and the tries.
pub(super) async fn connect_any(
    client: &Client,
    order: &[SocketAddr],
    record: &mut AccessRecord,
) -> Result<(TcpStream, Place), UpstreamReset> {
    let Some(place) = client.shared.descriptors.take(client.share()) else {
        client.refuse(RefusalReason::ConnectionLimit, None);
        return Err(connect_failure(
            "too many open connections of this workload",
            true,
        ));
    };
    let mut last = UpstreamReset::ConnectTimeout;
    for (attempt, to) in (0..TRIES).zip(order.iter().cycle()) {
        if attempt > 0 {
            sleep(jitter(BACK_OFF * ((1 << attempt) - 1))).await;
        }
        record.attempts += 1;
        record.upstream = Some(*to);
        let connecting = client.shared.dialer.connect(client.origin.netns, *to);
        match timeout(client.shared.limits.connect, connecting).await {
            Ok(Ok(stream)) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(target: "egress::proxy", %error, "no TCP_NODELAY");
                }
                return Ok((stream, place));
            }
            Ok(Err(error)) => last = reset_of(&error),
            Err(_) => last = UpstreamReset::ConnectTimeout,
        }
    }
    Err(last)
}

/// A random share of an interval.
fn jitter(most: Duration) -> Duration {
    let share = uuid::Uuid::new_v4().as_u128() % 1000;
    most * (share as u32) / 1000
}

fn reset_of(error: &io::Error) -> UpstreamReset {
    let text = error.to_string();
    let text = text.split(" (os error ").next().unwrap_or(&text);
    let from_the_network = matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::TimedOut
    );
    connect_failure(text, !from_the_network)
}

/// An HTTP/1.1 connection to an endpoint. Dropping it closes the socket, whatever is under way.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    pub(super) service: Arc<Cluster>,
    pub(super) send: SendRequest<RequestBody>,
    reading: Arc<Reading>,
    /// For wide reads.
    wide: Option<Place>,
    _task: OwnedTask,
    _place: Place,
    /// That of one which is idle beside another: the request under way has room for one.
    room: Option<Place>,
}

impl Upstream {
    pub(super) async fn new(
        stream: TcpStream,
        place: Place,
        address: SocketAddr,
        service: Arc<Cluster>,
    ) -> hyper::Result<Self> {
        let reading = Arc::default();
        let stream = Responses::new(stream, Arc::clone(&reading));
        let mut builder = Builder::new();
        builder.max_buf_size(BUFFER);
        builder.allow_obsolete_multiline_headers_in_responses(true);
        let (send, connection) = builder.handshake(TokioIo::new(stream)).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(target: "egress::proxy", %error, "upstream connection ended");
            }
        });
        Ok(Self {
            address,
            service,
            send,
            reading,
            wide: None,
            _task: OwnedTask(task),
            _place: place,
            room: None,
        })
    }

    /// The next bytes that it sends are the head of a response.
    pub(super) fn expect_response(&self) {
        self.reading.expected.store(true, Ordering::Release);
    }

    /// Reads a long response in larger parts, if the workload has memory to spare.
    pub(super) fn widen(&mut self, client: &Client) {
        if self.wide.is_none() {
            self.wide = client.shared.memory.spare(client.share(), WIDE);
            let wide = self.wide.is_some();
            self.reading.wide.store(wide, Ordering::Relaxed);
        }
    }

    /// Whether the connection was made for this service at this address.
    fn fits(&self, service: &Cluster, address: SocketAddr) -> bool {
        self.address == address && self.service.id == service.id
    }
}

/// Idle upstream connections of one client connection.
#[derive(Default)]
pub(super) struct Pool(Mutex<Vec<Upstream>>);

impl Pool {
    /// Takes a connection that is open and ready.
    pub(super) async fn take(&self, service: &Cluster, address: SocketAddr) -> Option<Upstream> {
        loop {
            let mut upstream = {
                let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                let at = idle
                    .iter()
                    .rposition(|upstream| upstream.fits(service, address))?;
                idle.remove(at)
            };
            if upstream.send.ready().await.is_ok() {
                return Some(upstream);
            }
        }
    }

    /// Keeps a connection whose exchange is over; the oldest goes where there are too many.
    /// One beside others is kept only where the workload has memory to spare.
    pub(super) fn put(&self, client: &Client, mut upstream: Upstream) {
        if upstream.send.is_closed() {
            return;
        }
        let (memory, most) = (&client.shared.memory, client.shared.limits.idle_upstreams);
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !idle.is_empty() && upstream.room.is_none() {
            upstream.room = memory.spare(client.share(), IDLE);
            if upstream.room.is_none() {
                return;
            }
        }
        idle.push(upstream);
        if idle.len() > most {
            idle.remove(0);
        }
    }
}
