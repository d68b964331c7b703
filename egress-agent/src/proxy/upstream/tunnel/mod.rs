//! Bytes through an HTTP proxy: the request for the destination, and the stream behind the proxy's response.
//!
//! `chunks` has the bodies of HTTP/1.1, `streams` those of HTTP/2. Nothing here reads the bytes.

mod chunks;
mod streams;

use super::stream::Stream;
use crate::proxy::client::Client;
use chunks::Chunks;
use egress_core::http::upstream_reset::{UpstreamReset, tunnel_failure};
use egress_core::traffic::{Framing, Tunnel};
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The longest head of a proxy's response.
const MAX_HEAD: usize = 16 * 1024;
/// The most interim responses.
const INTERIM: usize = 8;

/// Asks the proxy behind a new connection for the tunnel's destination.
pub(super) async fn open(
    client: &Client,
    stream: Stream,
    tunnel: &Tunnel,
    http2: bool,
) -> Result<Stream, UpstreamReset> {
    if http2 {
        return streams::open(client, stream, tunnel).await;
    }
    let mut stream = stream;
    let asked = ask(&mut stream, tunnel).await;
    match asked.map_err(|error| tunnel_failure(&error.to_string()))? {
        Framing::None if !tunnel.post => Ok(stream),
        framing => Ok(Stream::Tunnel(Box::new(Chunks::new(stream, framing)))),
    }
}

/// Sends the request, and reads the head of the response and not one byte more.
async fn ask(stream: &mut Stream, tunnel: &Tunnel) -> io::Result<Framing> {
    stream.write_all(&tunnel.request()).await?;
    stream.flush().await?;
    for _ in 0..INTERIM {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= MAX_HEAD {
                return Err(io::Error::other("its response head is too long"));
            }
            head.push(stream.read_u8().await?);
        }
        match tunnel.response(&head) {
            Ok(None) => {}
            Ok(Some(framing)) => return Ok(framing),
            Err(Some(status)) => return Err(io::Error::other(format!("it answered {status}"))),
            Err(None) => return Err(io::Error::other("its response is not HTTP")),
        }
    }
    Err(io::Error::other("it sends interim responses only"))
}
