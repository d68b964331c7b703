//! A websocket: the bytes of both sides after an upgrade, and which side ended first.
//!
//! It reads none of them.

use super::request_body::RequestBody;
use crate::proxy::ticket::{Counters, Ticket};
use crate::proxy::upstream::carrier::Carrier;
use crate::proxy::upstream::http2::Duplex;
use egress_core::http::response_flags::ResponseFlag;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};
use tokio::try_join;

/// Bytes that are read at once.
const BUFFER: usize = 8 * 1024;

/// The upstream's side of a websocket.
pub(super) enum UpstreamSide {
    /// A connection after its upgrade.
    Http1(OnUpgrade),
    /// A stream.
    Http2(Duplex),
}

impl UpstreamSide {
    /// The stream, if there is one.
    pub(super) fn of(stream: Option<Duplex>, connection: OnUpgrade) -> Self {
        stream.map_or(Self::Http1(connection), Self::Http2)
    }
}

/// Copies a websocket's bytes until both sides are done, or one is lost.
pub(super) async fn tunnel(
    downstream: OnUpgrade,
    upstream_side: UpstreamSide,
    upstream: Carrier<RequestBody>,
    mut ticket: Ticket,
) {
    let Ok(downstream) = downstream.await else {
        return;
    };
    let downstream = TokioIo::new(downstream);
    let first = match upstream_side {
        UpstreamSide::Http1(upgrade) => {
            let Ok(upstream) = upgrade.await else { return };
            both(downstream, TokioIo::new(upstream), &ticket.counters).await
        }
        UpstreamSide::Http2(stream) => both(downstream, stream, &ticket.counters).await,
    };
    drop(upstream);
    // A record that is not done is of a client that left.
    if first == Some(ResponseFlag::UC) {
        ticket.flag(ResponseFlag::UC);
        ticket.record.details =
            "upstream_reset_after_response_started{connection_termination}".into();
    }
}

/// Copies both ways. Returns the flag of the side that ended first, as Envoy's records have it.
async fn both(
    downstream: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    counters: &Counters,
) -> Option<ResponseFlag> {
    let (from_client, to_client) = split(downstream);
    let (from_origin, to_origin) = split(upstream);
    let first = Ended::new();
    let up = Way {
        flags: (ResponseFlag::DC, ResponseFlag::UC),
        count: &counters.received,
        first: &first,
    };
    let down = Way {
        flags: (ResponseFlag::UC, ResponseFlag::DC),
        count: &counters.sent,
        first: &first,
    };
    // An error only says that a side is lost, which `first` knows.
    let _ = try_join!(
        up.copy(from_client, to_origin),
        down.copy(from_origin, to_client)
    );
    first.into_inner()
}

/// The side that has ended first: the flag of a record that says so.
type Ended = OnceLock<ResponseFlag>;

/// One direction.
struct Way<'a> {
    /// Of the side that sends, and of the one that receives.
    flags: (ResponseFlag, ResponseFlag),
    count: &'a AtomicU64,
    first: &'a Ended,
}

impl Way<'_> {
    /// Copies until the sender has ended. An error if a side is lost.
    async fn copy(
        self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> Result<(), ()> {
        let mut buffer = vec![0; BUFFER];
        loop {
            let read = from.read(&mut buffer).await;
            let Ok(count @ 1..) = read else {
                self.first.get_or_init(|| self.flags.0);
                read.map_err(drop)?;
                return to.shutdown().await.map_err(|_| self.lost());
            };
            self.count.fetch_add(count as u64, Relaxed);
            // TLS accepts bytes that its socket does not take, and writes those only when it is flushed.
            let sent = async {
                to.write_all(&buffer[..count]).await?;
                to.flush().await
            };
            sent.await.map_err(|_: io::Error| self.lost())?;
        }
    }

    fn lost(&self) {
        self.first.get_or_init(|| self.flags.1);
    }
}

#[cfg(test)]
mod tests {
    use super::both;
    use crate::proxy::ticket::Counters;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufStream, duplex};
    use tokio::time::timeout;

    #[tokio::test]
    async fn bytes_do_not_stay_in_the_buffer_of_a_connection() {
        let (mut client, downstream) = duplex(64);
        let (upstream, mut origin) = duplex(64);
        let counters = Counters::default();
        // It keeps what it accepts until it is flushed, as TLS keeps what its socket does not take.
        let copying = both(
            BufStream::new(downstream),
            BufStream::new(upstream),
            &counters,
        );
        let talking = async {
            let mut got = [0; 4];
            client.write_all(b"ping").await?;
            origin.read_exact(&mut got).await?;
            origin.write_all(&got).await?;
            client.read_exact(&mut got).await?;
            assert_eq!(&got, b"ping");
            drop((client, origin));
            std::io::Result::Ok(())
        };
        let both = async { tokio::join!(copying, talking) };
        let (_, talked) = timeout(Duration::from_secs(5), both)
            .await
            .expect("no byte is kept");
        talked.expect("both sides are open");
    }
}
