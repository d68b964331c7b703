//! A host that answers every client in the client's protocol.
//!
//! It keeps no record.

use anyhow::{Context as _, Result};
use hyper::Response;
use hyper::header::HeaderValue;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// The HTTP response. The header distinguishes it from a reply of the proxy.
const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nx-served: yes\r\nconnection: close\r\n\r\nserved";

/// How an HTTP/2 client begins (RFC 9113 §3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0";

/// Listens at every address, and continues in tasks of its own.
pub(super) async fn serve(addresses: Vec<SocketAddr>) -> Result<()> {
    for address in addresses {
        let tcp = TcpListener::bind(address)
            .await
            .with_context(|| format!("anyone, TCP at {address}"))?;
        let udp = UdpSocket::bind(address)
            .await
            .with_context(|| format!("anyone, UDP at {address}"))?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                // An ICMP error for an earlier answer appears here. The host continues.
                if let Ok((_, peer)) = udp.recv_from(&mut buffer).await {
                    let _ = udp.send_to(b"served", peer).await;
                }
            }
        });
    }
    Ok(())
}

async fn answer(mut stream: TcpStream) {
    let mut first = vec![0; 4096];
    if let Ok(length) = stream.peek(&mut first).await
        && first[..length].starts_with(HTTP2)
    {
        return over_http2(stream).await;
    }
    let Ok(length @ 1..) = stream.read(&mut first).await else {
        return;
    };
    let http = first[..length].windows(9).any(|nine| nine == b" HTTP/1.1");
    // A client that has left is not an error.
    let _ = stream
        .write_all(if http { RESPONSE } else { b"served" })
        .await;
    let _ = stream.shutdown().await;
    while matches!(stream.read(&mut first).await, Ok(1..)) {}
}

/// The same response to each stream.
async fn over_http2(stream: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let mut head = Response::new(());
        let served = HeaderValue::from_static("yes");
        head.headers_mut().insert("x-served", served);
        // A client that has left is not an error.
        if let Ok(mut body) = respond.send_response(head, false) {
            let _ = body.send_data("served".into(), true);
        }
    }
}
