//! HTTP/2 to origins, from clients of both versions.

use crate::raw::{Raw, echo_origin, get as get_http1, raw_origin};
use crate::streams::{Client, get, ok, origin, read, whole, write};
use crate::support::{Bed, HOST, PATIENCE, forwarding, http_port};
use bytes::Bytes;
use egress_core::http::response_flags::ResponseFlag;
use egress_core::routing::{Cluster, HttpRoute, PortRoutes, Split, VirtualHost};
use egress_core::traffic::{ClusterId, RoutePolicy, UpstreamProtocol};
use h2::RecvStream;
use hyper::{HeaderMap, Request, Response, StatusCode};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};

/// A port whose host gets this version of HTTP.
pub fn port(
    protocol: UpstreamProtocol,
    endpoint: SocketAddr,
    limit: Option<Duration>,
) -> PortRoutes {
    let cluster = Cluster {
        id: ClusterId::new(HOST, 80),
        endpoints: vec![endpoint],
        protocol,
        ..Cluster::default()
    };
    let policy = RoutePolicy {
        timeout: limit,
        ..RoutePolicy::default()
    };
    let route = HttpRoute {
        policy: Arc::new(policy),
        ..forwarding(Split::one(Arc::new(cluster)))
    };
    let host = VirtualHost {
        host: HOST.into(),
        nets: vec![],
        routes: vec![Arc::new(route)],
    };
    PortRoutes {
        hosts: vec![Arc::new(host)].into(),
        ..http_port(HOST, &[], None)
    }
}

pub async fn bed(endpoint: SocketAddr) -> Bed {
    Bed::new(port(UpstreamProtocol::Http2, endpoint, None)).await
}

/// Answers with the head of the request and its body.
async fn echo(request: Request<RecvStream>, mut respond: h2::server::SendResponse<Bytes>) {
    let (parts, mut body) = request.into_parts();
    let (bytes, trailers) = read(&mut body).await.unwrap();
    let mut text = format!("{} {}\n", parts.method, parts.uri);
    for (name, value) in parts.headers.iter().chain(trailers.iter().flatten()) {
        writeln!(text, "{name}: {}", value.to_str().unwrap()).unwrap();
    }
    let mut text = text.into_bytes();
    text.extend(bytes);
    let mut stream = respond.send_response(ok(), false).unwrap();
    write(&mut stream, text.into(), true).await;
}

#[tokio::test]
async fn a_client_of_either_version_reaches_an_http2_origin() {
    let bed = bed(origin(echo).await).await;
    let mut http1 = bed.client().await;
    for _ in 0..2 {
        let request = format!(
            "POST /x/../a?q=1 HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nabc\r\n0\r\n\r\n"
        );
        let reply = http1.ask(&request).await;
        let text = reply.text();
        assert!(
            text.starts_with("POST http://httpbin.org/a?q=1\n"),
            "{text}"
        );
        assert!(text.ends_with("\nabc"), "{text}");
        assert!(
            !text.contains("host:") && !text.contains("connection:"),
            "{text}"
        );
        assert!(text.contains("\nx-envoy-attempt-count: 1\n"), "{text}");
        assert_eq!(
            (reply.status(), reply.header("server")),
            (200, Some("envoy"))
        );
    }
    let mut http2 = Client::new(&bed).await;
    let reply = http2.get(HOST, "/b").await;
    assert!(
        reply.text().starts_with("GET http://httpbin.org/b\n"),
        "{}",
        reply.text()
    );
    assert!(reply.headers.contains_key("x-envoy-upstream-service-time"));
}

#[tokio::test]
async fn the_protocol_of_the_port_decides_what_the_origin_gets() {
    let (http1, http2) = (echo_origin().await, origin(echo).await);
    for (protocol, client_http2, upstream) in [
        (UpstreamProtocol::Http1, true, http1),
        (UpstreamProtocol::Http2, false, http2),
        (UpstreamProtocol::AsClient, false, http1),
        (UpstreamProtocol::AsClient, true, http2),
    ] {
        let bed = Bed::new(port(protocol, upstream, None)).await;
        let status = if client_http2 {
            Client::new(&bed).await.get(HOST, "/").await.status
        } else {
            bed.client().await.ask(&get_http1(HOST, "/")).await.status()
        };
        assert_eq!(status, 200, "{protocol:?} {client_http2}");
    }
}

#[tokio::test]
async fn bodies_and_trailers_stream_both_ways() {
    let origin = origin(|request, mut respond| async move {
        let mut body: RecvStream = request.into_body();
        let mut stream = respond.send_response(ok(), false).unwrap();
        // Each message gets its answer at once.
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            write(&mut stream, data, false).await;
        }
        let mut trailers = body.trailers().await.unwrap().unwrap();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    })
    .await;
    let bed = bed(origin).await;
    let mut client = Client::new(&bed).await;
    let request = Request::post(format!("http://{HOST}/")).body(()).unwrap();
    let (response, mut stream) = client.begin(request, false).await;
    let mut body = timeout(PATIENCE, response)
        .await
        .unwrap()
        .unwrap()
        .into_body();
    for message in ["one", "two", "three"] {
        write(&mut stream, message.into(), false).await;
        let answer = timeout(PATIENCE, body.data()).await.expect("an answer");
        assert_eq!(answer.unwrap().unwrap(), message);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "3".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    let (rest, trailers) = read(&mut body).await.unwrap();
    let trailers = trailers.unwrap();
    assert_eq!(
        (&*rest, &trailers["x-sum"], &trailers["grpc-status"]),
        (&b""[..], &"3".parse().unwrap(), &"0".parse().unwrap())
    );
    assert_eq!(bed.record().await.flags.to_string(), "-");
}

#[tokio::test]
async fn requests_share_one_connection() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let origin = raw_origin(move |_, raw: Raw| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let mut connection = h2::server::handshake(raw.stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(echo(request, respond));
            }
        }
    })
    .await;
    let bed = bed(origin).await;
    let mut client = Client::new(&bed).await;
    let mut asked = Vec::new();
    for number in 0..50 {
        let (response, _) = client.begin(get(HOST, &format!("/{number}")), true).await;
        asked.push(tokio::spawn(whole(response)));
    }
    for reply in asked {
        assert_eq!(reply.await.unwrap().unwrap().status, 200);
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_large_body_passes_both_ways_within_the_windows() {
    let bed = bed(origin(echo).await).await;
    let body: Bytes = (0..4_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut client = Client::new(&bed).await;
    let request = Request::post(format!("http://{HOST}/")).body(()).unwrap();
    let (response, mut stream) = client.begin(request, false).await;
    let sent = body.clone();
    let sending = tokio::spawn(async move { write(&mut stream, sent, true).await });
    let reply = whole(response).await.unwrap();
    sending.await.unwrap();
    assert!(reply.body.ends_with(&body));
    let mut http1 = bed.client().await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    http1.send(head.as_bytes()).await;
    http1.send(&body).await;
    assert!(http1.message().await.unwrap().body.ends_with(&body));
}

#[tokio::test]
async fn interim_responses_of_an_http2_origin_reach_clients_of_both_versions() {
    let origin = origin(|_, mut respond| async move {
        let hints = Response::builder()
            .status(StatusCode::EARLY_HINTS)
            .header("link", "<a>")
            .body(())
            .unwrap();
        respond.send_informational(hints).unwrap();
        respond.send_response(ok(), true).unwrap();
    })
    .await;
    let bed = bed(origin).await;
    let mut client = bed.client().await;
    client.send(get_http1(HOST, "/").as_bytes()).await;
    let early = client.head().await.unwrap();
    assert!(early.starts_with("HTTP/1.1 103 Unknown\r\n"), "{early}");
    assert!(
        client
            .head()
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
    let mut client = Client::new(&bed).await;
    let (mut response, _) = client.begin(get(HOST, "/"), true).await;
    let next = std::future::poll_fn(|cx| response.poll_informational(cx));
    let early = timeout(PATIENCE, next).await.unwrap().unwrap().unwrap();
    assert_eq!(early.status(), StatusCode::EARLY_HINTS);
    assert_eq!(whole(response).await.unwrap().status, 200);
}

#[tokio::test]
async fn the_timeout_of_a_grpc_client_holds_and_goes_upstream() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let origin = origin(move |request: Request<RecvStream>, respond| {
        let told = told.clone();
        async move {
            let value = request.headers().get("grpc-timeout").cloned();
            told.send(value).unwrap();
            std::future::pending::<()>().await;
            drop(respond);
        }
    })
    .await;
    for (of_route, of_client, upstream) in [
        (None, "200m", "200m"),
        (Some(Duration::from_millis(200)), "1H", "200m"),
        (Some(Duration::from_secs(9)), "200000u", "200m"),
    ] {
        let bed = Bed::new(port(UpstreamProtocol::Http2, origin, of_route)).await;
        let mut client = Client::new(&bed).await;
        let mut request = get(HOST, "/");
        let grpc = "application/grpc".parse().unwrap();
        request.headers_mut().insert("content-type", grpc);
        request
            .headers_mut()
            .insert("grpc-timeout", of_client.parse().unwrap());
        let started = Instant::now();
        let reply = client.ask(request).await.unwrap();
        let took = started.elapsed();
        assert!(
            took >= Duration::from_millis(200) && took < Duration::from_secs(5),
            "{took:?}"
        );
        assert_eq!(heard.recv().await.unwrap().unwrap(), upstream);
        assert_eq!(reply.headers["grpc-status"], "14");
        assert_eq!(reply.headers["grpc-message"], "upstream request timeout");
        assert!(bed.record().await.flags.has(ResponseFlag::UT));
    }
}

#[tokio::test]
async fn a_slow_client_slows_its_origin() {
    let (told, sent) = oneshot::channel();
    let told = Arc::new(std::sync::Mutex::new(Some(told)));
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    let origin = origin(move |_, mut respond| {
        let (told, counted) = (Arc::clone(&told), Arc::clone(&counted));
        async move {
            let mut stream = respond.send_response(ok(), false).unwrap();
            for _ in 0..2000 {
                write(&mut stream, vec![0; 16_384].into(), false).await;
                counted.fetch_add(16_384, Ordering::Relaxed);
            }
            write(&mut stream, "end".into(), true).await;
            told.lock().unwrap().take().unwrap().send(()).unwrap();
        }
    })
    .await;
    let bed = bed(origin).await;
    let mut client = Client::new(&bed).await;
    let mut body = client.body(get(HOST, "/")).await;
    // The origin stops at the windows in between.
    let mut before = usize::MAX;
    while before != count.load(Ordering::Relaxed) {
        before = count.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(before < 4 * 1024 * 1024, "{before} of 32 MB");
    let (bytes, _) = timeout(PATIENCE, read(&mut body)).await.unwrap().unwrap();
    assert_eq!(bytes.len(), 2000 * 16_384 + 3);
    timeout(PATIENCE, sent).await.unwrap().unwrap();
}
