//! Destinations that are listed for TCP beside names that are checked on the same port.

use crate::raw::*;
use crate::support::*;
use egress_agent::proxy::{DenialReason, Limits, Protocol};
use egress_core::routing::{Cluster, PortKind, PortRoutes, Split, TcpRoute};
use egress_core::traffic::ClusterId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// The port with one more route, for bytes to the destination of the tests' client.
fn beside(mut port: PortRoutes, sniffed: bool, origin: SocketAddr) -> PortRoutes {
    let cluster = Cluster {
        id: ClusterId::new("tcp.example", origin.port()),
        endpoints: vec![origin],
        ..Cluster::default()
    };
    let route = TcpRoute {
        nets: vec!["192.0.2.1/32".parse().unwrap()],
        sniffed,
        to: Split::one(Arc::new(cluster)),
    };
    port.tcp = vec![Arc::new(route)].into();
    port
}

/// An origin that sends its name and then echoes.
async fn speaker(greeting: &'static [u8]) -> SocketAddr {
    raw_origin(move |_, mut raw| async move {
        raw.send(greeting).await;
        while let Some(byte) = raw.take(1).await {
            raw.send(&byte).await;
        }
    })
    .await
}

#[tokio::test]
async fn bytes_without_a_listed_name_are_relayed_where_the_destination_is_listed_as_tcp() {
    let named = fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nnamed").await;
    let tcp = speaker(b"").await;
    let bed = Bed::new(beside(http_port(HOST, &[named], None), false, tcp)).await;
    for bytes in [
        &b"\0\x01binary"[..],
        b"SSH-2.0-x\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: unlisted.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: httpbin.org\r\nHost: httpbin.org\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\0\x02no hello",
    ] {
        let mut client = bed.client().await;
        client.send(bytes).await;
        assert_eq!(client.take(bytes.len()).await.unwrap(), bytes);
        drop(client);
        let record = bed.record().await;
        assert_eq!(record.protocol, Protocol::Tcp);
        let host = record.cluster.as_ref().map(|id| &*id.host);
        assert_eq!(host, Some("tcp.example"));
    }
    let mut client = bed.client().await;
    assert_eq!(client.ask(&get(HOST, "/")).await.text(), "named");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_on_a_shared_port() {
    let tcp = speaker(b"220 ready\r\n").await;
    for port in [
        http_port(HOST, &[refused_address()], None),
        tls_port(PortKind::Tls, HOST, &[refused_address()]),
    ] {
        let bed = Bed::new(beside(port, false, tcp)).await;
        let mut client = bed.client().await;
        assert_eq!(client.take(11).await.unwrap(), b"220 ready\r\n");
    }
}

#[tokio::test]
async fn without_a_protocol_http_goes_by_its_host_and_the_rest_by_its_address() {
    let tcp = speaker(b"").await;
    let port = beside(http_port(HOST, &[refused_address()], None), true, tcp);
    let bed = Bed::new(port).await;
    let mut client = bed.client().await;
    assert_eq!(
        client.ask(&get("unlisted.example", "/")).await.status(),
        502
    );
    assert_eq!(bed.denial().await, DenialReason::UnlistedHost);
    let mut client = bed.client().await;
    client.send(b"\x01bytes").await;
    assert_eq!(client.take(6).await.unwrap(), b"\x01bytes");
}

#[tokio::test]
async fn without_a_protocol_no_spelling_of_http_hides_a_host_from_the_gate() {
    let forbidden = raw_origin(|_, mut raw| async move {
        let bytes = raw.take(1).await;
        panic!("the origin was reached: {bytes:?}");
    })
    .await;
    let limits = Limits {
        name: Duration::from_millis(300),
        ..Limits::default()
    };
    let method = "M".repeat(40);
    let line = |line: &str| format!("{line}\r\nHost: unlisted.example\r\n\r\n");
    for (bytes, status) in [
        (line("\r\nGET / HTTP/1.1"), 502),
        (line("\n\r\n\nGET / HTTP/1.1"), 502),
        (line("GET / HTTP/1.0"), 502),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), 400),
        (
            line("GET http://httpbin.org@unlisted.example/ HTTP/1.0"),
            502,
        ),
        (line("GET / http/1.1"), 400),
        (line("GET / HTTP/1.2"), 426),
        (line("GET / HTTP/1.1 "), 400),
        (line("GET  / HTTP/1.1"), 400),
        (line("GET\t/ HTTP/1.1"), 400),
        (line(" GET / HTTP/1.1"), 400),
        (line("\x0bGET / HTTP/1.1"), 400),
        (line("get / HTTP/1.1"), 400),
        (line(&format!("{method} / HTTP/1.1")), 400),
        (line("GET http://unlisted.example/"), 426),
        (format!("{} / HTTP/1.1", "M".repeat(70_000)), 431),
    ] {
        let port = beside(http_port(HOST, &[forbidden], None), true, forbidden);
        let bed = Bed::with(port, Some(destination("192.0.2.1:80")), limits).await;
        let mut client = bed.client().await;
        client.send(bytes.as_bytes()).await;
        let head = client.head().await.unwrap_or_default();
        let begin = format!(" {status} ");
        let shown = &bytes[..bytes.len().min(60)];
        assert!(head.contains(&begin), "{shown:?}: {head}");
        bed.denial().await;
    }
    // Half a request, and then silence or the end.
    for (bytes, ends, reason) in [
        ("", false, DenialReason::NameTimeout),
        ("G", false, DenialReason::NameTimeout),
        ("\r\n", false, DenialReason::NameTimeout),
        ("GET / HTT", false, DenialReason::NameTimeout),
        (
            "GET http://unlisted.example/ HTTP/1.1",
            true,
            DenialReason::EndedEarly,
        ),
    ] {
        let port = beside(http_port(HOST, &[forbidden], None), true, forbidden);
        let bed = Bed::with(port, Some(destination("192.0.2.1:80")), limits).await;
        let mut client = bed.client().await;
        client.send(bytes.as_bytes()).await;
        if ends {
            client.stream.shutdown().await.unwrap();
        }
        assert!(client.rest().await.is_empty(), "{bytes:?}");
        assert_eq!(bed.denial().await, reason, "{bytes:?}");
    }
}

#[tokio::test]
async fn http_1_0_with_a_listed_host_passes_where_the_protocol_is_not_set() {
    let named = echo_origin().await;
    let port = beside(http_port(HOST, &[named], None), true, refused_address());
    let bed = Bed::new(port).await;
    let mut client = bed.client().await;
    client
        .send(b"GET /a/../b HTTP/1.0\r\nHost: httpbin.org\r\n\r\n")
        .await;
    let reply = client.message().await.unwrap();
    assert!(reply.head.starts_with("HTTP/1.0 200 "), "{}", reply.head);
    assert!(
        reply.text().starts_with("GET /b HTTP/1.1\r\n"),
        "{}",
        reply.text()
    );
    assert!(client.rest().await.is_empty());
    // Each request of a kept connection is judged.
    let mut client = bed.client().await;
    let kept =
        |host: &str| format!("GET / HTTP/1.0\r\nHost: {host}\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.ask(&kept(HOST)).await.status(), 200);
    assert_eq!(client.ask(&kept("unlisted.example")).await.status(), 502);
    assert_eq!(bed.denial().await, DenialReason::UnlistedHost);
}

#[tokio::test]
async fn without_a_protocol_what_is_not_http_is_relayed() {
    let tcp = speaker(b"").await;
    let port = beside(http_port(HOST, &[refused_address()], None), true, tcp);
    let bed = Bed::new(port).await;
    for bytes in [
        &b"*1\r\n$4\r\nPING\r\n"[..],
        b"get key\r\n",
        b"SSH-2.0-x\r\n",
        b"EHLO a.example\r\n",
        b"AMQP\0\0\x09\x01",
        b"\0\0\0\x08\x04\xd2\x16\x2f",
    ] {
        let mut client = bed.client().await;
        client.send(bytes).await;
        assert_eq!(client.take(bytes.len()).await.unwrap(), bytes);
    }
}

#[tokio::test]
async fn an_address_that_is_not_listed_as_tcp_gains_nothing_from_one_that_is() {
    let tcp = speaker(b"220 ready\r\n").await;
    let port = beside(http_port(HOST, &[tcp], None), false, tcp);
    let other = Some(destination("192.0.2.2:80"));
    let bed = Bed::with(port, other, Limits::default()).await;
    let mut client = bed.client().await;
    assert_eq!(
        client.ask(&get("unlisted.example", "/")).await.status(),
        502
    );
    let mut client = bed.client().await;
    client.send(b"\x16\x03\x01\0\x05hello").await;
    assert_eq!(client.rest().await, b"");
}
