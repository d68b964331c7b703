//! HTTP/2 to origins under a `DestinationRule` and the route's retries: how many streams and connections there are, TLS,
//! and requests that the origin refused.

use crate::raw::{Raw, get, raw_origin};
use crate::streams::{Client, get as stream_get, ok, whole, write};
use crate::support::{Bed, PATIENCE, destination};
use crate::tls_origin::{Authority, Server};
use crate::yaml::{route, rule, rules};
use bytes::Bytes;
use egress_agent::proxy::Limits;
use egress_core::routing::PortRoutes;
use h2::Reason;
use h2::server::SendResponse;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

const HOST: &str = "a.example";

/// An HTTP/2 origin that answers each request with the number of its connection, as soon as it has a permit.
struct Origin {
    addr: SocketAddr,
    go: Arc<Semaphore>,
    asked: mpsc::UnboundedReceiver<usize>,
    ended: mpsc::UnboundedReceiver<usize>,
}

async fn tell(number: usize, mut respond: SendResponse<Bytes>) {
    let mut body = respond.send_response(ok(), false).unwrap();
    write(&mut body, number.to_string().into(), true).await;
}

async fn origin(permits: usize) -> Origin {
    let go = Arc::new(Semaphore::new(permits));
    let ((ask, asked), (end, ended)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let gate = Arc::clone(&go);
    let addr = raw_origin(move |number, raw: Raw| {
        let (gate, ask, end) = (Arc::clone(&gate), ask.clone(), end.clone());
        async move {
            let mut connection = h2::server::handshake(raw.stream).await.unwrap();
            while let Some(Ok((_, respond))) = connection.accept().await {
                ask.send(number).ok();
                let gate = Arc::clone(&gate);
                tokio::spawn(async move {
                    gate.acquire().await.unwrap().forget();
                    tell(number, respond).await;
                });
            }
            end.send(number).ok();
        }
    })
    .await;
    Origin {
        addr,
        go,
        asked,
        ended,
    }
}

async fn bed(origin: SocketAddr, port: &str, more: &str) -> Bed {
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    bed.put(rules(origin, port, more));
    bed
}

fn pool(http: &str, tcp: &str) -> String {
    rule(&format!(
        "trafficPolicy: {{connectionPool: {{http: {{{http}}}, tcp: {{{tcp}}}}}}}"
    ))
}

const GRPC: &str = "protocol: GRPC";
const MANY: usize = Semaphore::MAX_PERMITS / 2;

#[tokio::test]
async fn each_stream_is_a_request_of_the_limit() {
    let mut origin = origin(0).await;
    let bed = bed(origin.addr, GRPC, &pool("http2MaxRequests: 2", "")).await;
    let mut client = Client::new(&bed).await;
    let mut running = Vec::new();
    for _ in 0..2 {
        running.push(client.begin(stream_get(HOST, "/"), true).await.0);
        assert_eq!(origin.asked.recv().await, Some(0));
    }
    let over = client.get(HOST, "/").await;
    assert_eq!(over.status, 503);
    assert!(over.text().ends_with("overflow"), "{}", over.text());
    assert_eq!(bed.record().await.flags.to_string(), "UO");
    origin.go.add_permits(3);
    for response in running {
        assert_eq!(whole(response).await.unwrap().text(), "0");
    }
    assert_eq!(client.get(HOST, "/").await.text(), "0");
}

#[tokio::test]
async fn a_connection_serves_as_many_requests_as_the_rule_says() {
    let origin = origin(MANY).await;
    let bed = bed(origin.addr, GRPC, &pool("maxRequestsPerConnection: 2", "")).await;
    let mut client = Client::new(&bed).await;
    let mut by = Vec::new();
    for _ in 0..5 {
        by.push(client.get(HOST, "/").await.text().to_owned());
    }
    assert_eq!(by, ["0", "0", "1", "1", "2"]);
}

#[tokio::test]
async fn more_streams_than_the_rule_allows_take_a_further_connection() {
    let mut origin = origin(0).await;
    let bed = bed(origin.addr, GRPC, &pool("maxConcurrentStreams: 1", "")).await;
    let mut client = Client::new(&bed).await;
    let mut running = Vec::new();
    for number in 0..2 {
        running.push(client.begin(stream_get(HOST, "/"), true).await.0);
        assert_eq!(origin.asked.recv().await, Some(number));
    }
    origin.go.add_permits(2);
    for response in running {
        assert_eq!(whole(response).await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_idle_connection_gives_way_to_that_of_another_client_and_closes_in_time() {
    let mut origin = origin(MANY).await;
    let bed = bed(
        origin.addr,
        GRPC,
        &pool("idleTimeout: 0.2s", "maxConnections: 1"),
    )
    .await;
    let (mut first, mut second) = (Client::new(&bed).await, Client::new(&bed).await);
    assert_eq!(first.get(HOST, "/").await.text(), "0");
    assert_eq!(second.get(HOST, "/").await.text(), "1");
    assert_eq!(first.get(HOST, "/").await.text(), "2");
    for number in 0..3 {
        let ended = timeout(PATIENCE, origin.ended.recv()).await;
        assert_eq!(ended.expect("idle connections close"), Some(number));
    }
}

#[tokio::test]
async fn a_connection_that_goes_away_counts_until_its_last_stream() {
    let origin = raw_origin(move |number, raw: Raw| async move {
        let mut connection = h2::server::handshake(raw.stream).await.unwrap();
        while let Some(Ok((_, respond))) = connection.accept().await {
            connection.graceful_shutdown();
            tokio::spawn(tell(number, respond));
        }
    })
    .await;
    let bed = bed(origin, GRPC, &pool("", "maxConnections: 1")).await;
    let (mut first, mut second) = (Client::new(&bed).await, Client::new(&bed).await);
    for _ in 0..5 {
        for client in [&mut first, &mut second] {
            let reply = timeout(PATIENCE, client.get(HOST, "/")).await;
            assert_eq!(reply.expect("a connection is free").status, 200);
        }
    }
}

#[tokio::test]
async fn a_rule_decides_the_version_against_the_port() {
    let origin = origin(MANY).await;
    for (port, http) in [
        ("protocol: HTTP", "h2UpgradePolicy: UPGRADE"),
        ("protocol: HTTP", "useClientProtocol: true"),
        ("protocol: HTTP2", "maxRetries: 1"),
    ] {
        let bed = bed(origin.addr, port, &pool(http, "")).await;
        let reply = Client::new(&bed).await.get(HOST, "/").await;
        assert_eq!(reply.status, 200, "{port} {http}");
    }
    let http1 = raw_origin(|_, mut raw: Raw| async move {
        let head = raw.head().await.unwrap();
        assert!(head.starts_with("GET / HTTP/1.1"), "{head}");
        raw.send(b"HTTP/1.1 204 No Content\r\n\r\n").await;
    })
    .await;
    let bed = bed(http1, GRPC, &pool("useClientProtocol: true", "")).await;
    assert_eq!(bed.client().await.ask(&get(HOST, "/")).await.status(), 204);
}

#[tokio::test]
async fn a_refused_request_is_sent_again_if_the_route_says_so() {
    for (on, status, attempts) in [("refused-stream", 200, 2), ("connect-failure", 503, 1)] {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let origin = crate::streams::origin(move |_, mut respond: SendResponse<Bytes>| {
            let number = count.fetch_add(1, Ordering::SeqCst);
            async move {
                if number == 0 {
                    respond.send_reset(Reason::REFUSED_STREAM);
                } else {
                    tell(number, respond).await;
                }
            }
        })
        .await;
        let retries = format!("retries: {{attempts: 2, retryOn: {on}, backoff: 10ms}}");
        let bed = bed(origin, GRPC, &route("http", &retries)).await;
        let reply = Client::new(&bed).await.get(HOST, "/").await;
        assert_eq!(reply.status, status, "{on}: {}", reply.text());
        assert_eq!(asked.load(Ordering::SeqCst), attempts, "{on}");
        assert_eq!(
            bed.record().await.attempts,
            u32::try_from(attempts).unwrap()
        );
    }
}

#[tokio::test]
async fn tls_to_an_http2_port_offers_http2_and_nothing_else() {
    let authority = Authority::new();
    let mut config = authority.server(&authority.identity(&[HOST]), false);
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let server = Server::serving(config, |stream| async move {
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert_eq!(alpn.as_deref(), Some(&b"h2"[..]));
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            assert_eq!(request.uri().authority().unwrap().as_str(), HOST);
            tokio::spawn(tell(7, respond));
        }
    })
    .await;
    let file = authority.path("ca.pem").display().to_string();
    let tls = rule(&format!(
        "trafficPolicy: {{tls: {{mode: SIMPLE, caCertificates: {file}}}}}"
    ));
    let bed = bed(server.address, GRPC, &tls).await;
    let mut client = Client::new(&bed).await;
    for _ in 0..3 {
        let reply = client.get(HOST, "/").await;
        assert_eq!((reply.status, reply.text()), (200, "7"));
    }
    assert_eq!(server.connections(), 1);
}
