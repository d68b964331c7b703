//! WebSockets over TLS that the proxy originates.

use crate::raw::Raw;
use crate::support::{Bed, HOST, PATIENCE};
use crate::tls_origin::Authority;
use crate::tls_origination::tls_to;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpSocket;
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

/// Each message is longer than the one before: the end of one of them finds the origin's socket full.
const STEP: usize = 32 * 1024;
const MESSAGES: usize = 128;

/// An origin with a small socket that reads a message only after the proxy has had time to fill it.
fn slow_origin(config: ServerConfig, mut sent: UnboundedReceiver<usize>) -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let stream = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        let mut raw = Raw::over(stream.unwrap());
        raw.head().await.unwrap();
        raw.send(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await;
        while let Some(length) = sent.recv().await {
            for _ in 0..2000 {
                yield_now().await;
            }
            raw.take(length).await.unwrap();
            raw.send(b"got").await;
        }
    });
    at
}

#[tokio::test]
async fn the_end_of_a_message_reaches_an_origin_whose_socket_was_full() {
    let authority = Authority::new();
    let identity = authority.identity(&[HOST]);
    let (tell, sent) = mpsc::unbounded_channel();
    let origin = slow_origin(authority.server(&identity, false), sent);
    let bed = Bed::new(tls_to(&[HOST], origin, Some(authority.simple()))).await;
    let mut client = bed.client().await;
    let upgrade = format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n"
    );
    client.send(upgrade.as_bytes()).await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    for length in (1..=MESSAGES).map(|message| message * STEP) {
        tell.send(length).unwrap();
        client.send(&vec![b'x'; length]).await;
        let got = timeout(PATIENCE, client.take(3)).await;
        assert_eq!(got.expect("the whole message").unwrap(), b"got", "{length}");
    }
}
