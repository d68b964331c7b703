//! A tunnel in one stream of an HTTP/2 connection of its own.
//!
//! The library keeps what the proxy does not take, within its buffer for a stream.

use crate::proxy::client::Client;
use crate::proxy::http2_memory::CONNECTION;
use crate::proxy::observe::DenialReason;
use crate::proxy::places::Place;
use crate::proxy::ticket::OwnedTask;
use crate::proxy::upstream::http2::handshake;
use crate::proxy::upstream::stream::Stream;
use bytes::{Buf as _, Bytes};
use egress_core::http::upstream_reset::{UpstreamReset, tunnel_failure};
use egress_core::traffic::Tunnel;
use h2::{RecvStream, SendStream};
use hyper::{Method, Request, Uri};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;

/// See the module.
struct Streamed {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// What was received and not read.
    held: Bytes,
    ended: bool,
    driver: Option<OwnedTask>,
    _room: Place,
}

/// How long the last bytes of a tunnel that both sides have ended may take to leave.
const LAST: Duration = Duration::from_secs(5);

/// A tunnel that is cut ends at once, with what it has not sent.
impl Drop for Streamed {
    fn drop(&mut self) {
        let whole = self.ended && self.receive.is_end_stream();
        if let Some(mut driver) = self.driver.take().filter(|_| whole) {
            tokio::spawn(async move {
                // Dropping the driver after that closes the connection.
                let _ = timeout(LAST, &mut driver.0).await;
            });
        }
    }
}

/// Opens the tunnel.
pub(super) async fn open(
    client: &Client,
    stream: Stream,
    tunnel: &Tunnel,
) -> Result<Stream, UpstreamReset> {
    let Some(room) = client.shared.memory.take_many(client.share(), CONNECTION) else {
        client.deny(DenialReason::MemoryLimit, None);
        let limit = "too much memory of this workload in use";
        return Err(UpstreamReset::Overflow(Some(limit)));
    };
    let broken = |error: h2::Error| tunnel_failure(&error.to_string());
    let (mut send, connection) = handshake(client, stream).await.map_err(broken)?;
    let driver = OwnedTask(tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(target: "egress::proxy", %error, "the connection of a tunnel ended");
        }
    }));
    poll_fn(|cx| send.poll_ready(cx)).await.map_err(broken)?;
    let request =
        request(tunnel).ok_or_else(|| tunnel_failure("its target is not one of a URL"))?;
    let (response, body) = send.send_request(request, false).map_err(broken)?;
    let response = response.await.map_err(broken)?;
    if !response.status().is_success() {
        return Err(tunnel_failure(&format!(
            "it answered {}",
            response.status().as_u16()
        )));
    }
    Ok(Stream::Tunnel(Box::new(Streamed {
        send: body,
        receive: response.into_body(),
        held: Bytes::new(),
        ended: false,
        driver: Some(driver),
        _room: room,
    })))
}

/// RFC 9113 §8.5: CONNECT has neither scheme nor path.
fn request(tunnel: &Tunnel) -> Option<Request<()>> {
    let target = &tunnel.target;
    let (method, uri) = if tunnel.post {
        (Method::POST, format!("http://{target}/"))
    } else {
        (Method::CONNECT, target.to_string())
    };
    let uri: Uri = uri.parse().ok()?;
    let (mut head, ()) = Request::new(()).into_parts();
    (head.method, head.uri) = (method, uri);
    Some(Request::from_parts(head, ()))
}

fn lost(error: h2::Error) -> io::Error {
    if error.is_io() {
        error
            .into_io()
            .unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    } else {
        io::Error::new(io::ErrorKind::ConnectionReset, error)
    }
}

impl AsyncRead for Streamed {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.held.is_empty() {
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => this.held = data.map_err(lost)?,
            }
        }
        let count = this.held.len().min(buffer.remaining());
        buffer.put_slice(&this.held[..count]);
        this.held.advance(count);
        // The proxy may send as many more.
        let released = this.receive.flow_control().release_capacity(count);
        Poll::Ready(released.map_err(lost))
    }
}

impl AsyncWrite for Streamed {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.send.reserve_capacity(bytes.len());
        while this.send.capacity() == 0 {
            match ready!(this.send.poll_capacity(cx)) {
                Some(capacity) => capacity.map_err(lost)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let count = this.send.capacity().min(bytes.len());
        let part = Bytes::copy_from_slice(&bytes[..count]);
        this.send.send_data(part, false).map_err(lost)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !std::mem::replace(&mut this.ended, true) {
            this.send.send_data(Bytes::new(), true).map_err(lost)?;
        }
        Poll::Ready(Ok(()))
    }
}
