//! `tunnel` and `proxyProtocol`: what an endpoint gets before the bytes of a client.

use crate::raw::{Raw, get, raw_origin};
use crate::streams::{ok, write};
use crate::support::{Bed, PATIENCE, destination};
use crate::yaml::{rule, rules};
use bytes::Bytes;
use egress_agent::proxy::Limits;
use egress_core::routing::PortRoutes;
use h2::RecvStream;
use h2::server::SendResponse;
use hyper::Request;
use std::net::SocketAddr;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::timeout;

async fn bed(origin: SocketAddr, protocol: &str, policy: &str) -> Bed {
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    let more = rule(&format!("trafficPolicy: {{{policy}}}"));
    bed.put(rules(origin, &format!("protocol: {protocol}"), &more));
    bed
}

fn tunnel(method: &str) -> String {
    format!("tunnel: {{protocol: {method}, targetHost: www.example, targetPort: 443}}")
}

/// An HTTP proxy that tells what it gets first, answers this, and then sends back what it gets.
async fn proxy(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let (tell, told) = mpsc::unbounded_channel();
    let at = raw_origin(move |_, mut raw: Raw| {
        let tell = tell.clone();
        async move {
            let Some(head) = raw.head().await else { return };
            tell.send(head).ok();
            raw.send(answer.as_bytes()).await;
            while let Some(bytes) = raw.take(4).await {
                raw.send(&bytes).await;
            }
        }
    })
    .await;
    (at, told)
}

#[tokio::test]
async fn bytes_go_through_the_proxy_that_opens_the_tunnel() {
    let answer = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwelcome";
    let (at, mut told) = proxy(answer).await;
    let bed = bed(at, "TCP", &tunnel("CONNECT")).await;
    let mut client = bed.client().await;
    client.send(b"ping").await;
    assert_eq!(
        client.take(7).await.unwrap(),
        b"welcome",
        "the server may speak first"
    );
    assert_eq!(client.take(4).await.unwrap(), b"ping");
    assert_eq!(
        told.recv().await.unwrap(),
        "CONNECT www.example:443 HTTP/1.1\r\nhost: www.example:443\r\n\r\n"
    );
}

#[tokio::test]
async fn a_proxy_that_refuses_gets_no_byte_and_the_client_is_closed() {
    for answer in [
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "220 mail.example ESMTP\r\n\r\n",
    ] {
        let (at, _told) = proxy(answer).await;
        let bed = bed(at, "TCP", &tunnel("CONNECT")).await;
        let mut client = bed.client().await;
        client.send(b"secret").await;
        assert!(timeout(PATIENCE, client.rest()).await.unwrap().is_empty());
        assert_eq!(bed.record().await.flags.to_string(), "URX,UF", "{answer}");
    }
}

#[tokio::test]
async fn with_post_bytes_are_chunks_of_a_request_and_its_response() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let at = raw_origin(move |_, mut raw: Raw| {
        let tell = tell.clone();
        async move {
            tell.send(raw.head().await.unwrap()).ok();
            raw.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n")
                .await;
            let chunk = raw.take(b"5\r\nhello\r\n".len()).await.unwrap();
            tell.send(String::from_utf8(chunk).unwrap()).ok();
            raw.send(b"2\r\nlo\r\n").await;
            let last = raw.take(b"0\r\n\r\n".len()).await.unwrap();
            tell.send(String::from_utf8(last).unwrap()).ok();
            raw.send(b"0\r\ntrailer: 1\r\n\r\n").await;
            raw.rest().await;
        }
    })
    .await;
    let bed = bed(at, "TCP", &tunnel("POST")).await;
    let mut client = bed.client().await;
    client.send(b"hello").await;
    assert_eq!(client.take(5).await.unwrap(), b"hello");
    client.stream.shutdown().await.unwrap();
    assert!(timeout(PATIENCE, client.rest()).await.unwrap().is_empty());
    for part in [
        "POST / HTTP/1.1\r\nhost: www.example:443\r\ntransfer-encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n",
        "0\r\n\r\n",
    ] {
        assert_eq!(told.recv().await.unwrap(), part);
    }
    assert_eq!(bed.record().await.flags.to_string(), "-");
}

#[tokio::test]
async fn over_http2_the_tunnel_is_a_stream() {
    for (method, uri) in [
        ("CONNECT", "www.example:443"),
        ("POST", "http://www.example:443/"),
    ] {
        let (tell, mut told) = mpsc::unbounded_channel();
        let at = crate::streams::origin(
            move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
                let tell = tell.clone();
                async move {
                    let asked = format!("{} {}", request.method(), request.uri());
                    tell.send(asked).ok();
                    let mut body = request.into_body();
                    let mut back = respond.send_response(ok(), false).unwrap();
                    while let Some(Ok(data)) = body.data().await {
                        body.flow_control().release_capacity(data.len()).unwrap();
                        write(&mut back, data, false).await;
                    }
                    back.send_data(Bytes::new(), true).unwrap();
                }
            },
        )
        .await;
        let upgrade = "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}";
        let bed = bed(at, "TCP", &format!("{}, {upgrade}", tunnel(method))).await;
        let mut client = bed.client().await;
        let sent: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
        client.send(&sent).await;
        client.stream.shutdown().await.unwrap();
        let got = timeout(PATIENCE, client.rest()).await.unwrap();
        assert!(got == sent, "{} bytes", got.len());
        assert_eq!(told.recv().await.unwrap(), format!("{method} {uri}"));
        assert_eq!(bed.record().await.flags.to_string(), "-");
    }
}

#[tokio::test]
async fn requests_of_http_routes_do_not_go_through_a_tunnel() {
    let (at, mut told) = proxy("HTTP/1.1 204 No Content\r\n\r\n").await;
    let bed = bed(at, "HTTP", &tunnel("CONNECT")).await;
    assert_eq!(
        bed.client()
            .await
            .ask(&get("a.example", "/"))
            .await
            .status(),
        204
    );
    assert!(told.recv().await.unwrap().starts_with("GET / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_connection_begins_with_the_clients_address() {
    for (protocol, request) in [
        ("TCP", b"SSH\r\n\r\n".as_slice()),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n"),
    ] {
        let (tell, mut told) = mpsc::unbounded_channel();
        let at = raw_origin(move |_, mut raw: Raw| {
            let tell = tell.clone();
            async move {
                let mut all = raw.take(28).await.unwrap();
                all.extend(raw.head().await.unwrap().into_bytes());
                tell.send(all).ok();
                raw.send(b"HTTP/1.1 204 No Content\r\n\r\n").await;
                raw.rest().await;
            }
        })
        .await;
        for version in ["V1", "V2"] {
            let bed = bed(
                at,
                protocol,
                &format!("proxyProtocol: {{version: {version}}}"),
            )
            .await;
            let mut client = bed.client().await;
            let port = client.stream.local_addr().unwrap().port();
            client.send(request).await;
            let got = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
            let header = if version == "V1" {
                format!("PROXY TCP4 127.0.0.1 192.0.2.1 {port} 80\r\n").into_bytes()
            } else {
                let mut header =
                    b"\r\n\r\n\0\r\nQUIT\n!\x11\0\x0c\x7f\0\0\x01\xc0\0\x02\x01".to_vec();
                header.extend([port.to_be_bytes(), [0, 80]].concat());
                header
            };
            assert!(got.starts_with(&header), "{protocol} {version}: {got:?}");
            assert!(got[header.len()..].starts_with(&request[..3]));
        }
    }
}
