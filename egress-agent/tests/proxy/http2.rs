//! HTTP/2 from clients, with prior knowledge.

use crate::raw::{Raw, echo_origin, fixed_origin, raw_origin, refused_address};
use crate::streams::{Client, get, read, reset_of, whole, write};
use crate::support::{Bed, HOST, PATIENCE, http_port};
use bytes::Bytes;
use egress_agent::proxy::{DenialReason, Protocol};
use egress_core::http::response_flags::ResponseFlag;
use egress_core::routing::PortKind;
use h2::Reason;
use hyper::{Request, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};

async fn bed() -> Bed {
    Bed::new(http_port(HOST, &[echo_origin().await], None)).await
}

#[tokio::test]
async fn a_request_goes_to_an_http11_origin_and_is_recorded() {
    for kind in [PortKind::Http, PortKind::Sniff] {
        let mut port = http_port(HOST, &[echo_origin().await], None);
        port.kind = kind;
        let bed = Bed::new(port).await;
        let mut client = Client::new(&bed).await;
        let reply = client.get(HOST, "/a/../get?x=1").await;
        let text = reply.text();
        assert!(text.starts_with("GET /get?x=1 HTTP/1.1\r\n"), "{text}");
        assert!(text.contains("\r\nhost: httpbin.org\r\n"), "{text}");
        assert!(text.contains("\r\nx-forwarded-proto: http\r\n"), "{text}");
        assert_eq!(
            (reply.status, &reply.headers["server"]),
            (200, &"envoy".parse().unwrap())
        );
        assert!(reply.headers.contains_key("date"));
        let record = bed.record().await;
        assert_eq!(record.protocol, Protocol::Http2);
        assert_eq!(
            (&*record.host, &*record.path, &*record.method),
            (HOST, "/get?x=1", "GET")
        );
        assert_eq!(
            (record.response_code, record.bytes_sent),
            (200, text.len() as u64)
        );
        assert_eq!(record.flags.to_string(), "-");
    }
}

#[tokio::test]
async fn each_stream_is_judged_by_its_own_authority() {
    let bed = bed().await;
    let mut client = Client::new(&bed).await;
    for _ in 0..2 {
        assert_eq!(client.get(HOST, "/").await.status, 200);
        let reply = client.get("evil.example", "/").await;
        assert_eq!(
            (reply.status, reply.fields()),
            (502, vec!["server: envoy".to_owned()])
        );
        assert_eq!(bed.denial().await, DenialReason::UnlistedHost);
        // Host does not outweigh `:authority`.
        let mut request = get("evil.example", "/");
        request.headers_mut().insert("host", HOST.parse().unwrap());
        assert_eq!(client.ask(request).await.unwrap().status, 502);
        assert_eq!(bed.denial().await, DenialReason::UnlistedHost);
        let mut request = get(HOST, "/");
        request
            .headers_mut()
            .insert("host", "evil.example".parse().unwrap());
        let reply = client.ask(request).await.unwrap();
        assert!(!reply.text().contains("evil.example"), "{}", reply.text());
    }
}

#[tokio::test]
async fn local_replies_are_envoys() {
    let refused = http_port(HOST, &[refused_address()], None);
    let bed = Bed::new(refused).await;
    let mut client = Client::new(&bed).await;
    let reply = client.get(HOST, "/").await;
    assert_eq!(reply.status, 503);
    assert!(
        reply
            .text()
            .starts_with("upstream connect error or disconnect/reset before headers.")
    );
    let length = reply.body.len();
    let mut fields = reply.fields();
    fields.sort();
    assert_eq!(
        fields,
        [
            format!("content-length: {length}"),
            "content-type: text/plain".into(),
            "server: envoy".into()
        ]
    );
    assert!(bed.record().await.flags.has(ResponseFlag::UF));
    // gRPC: the reply is its trailers only.
    let mut request = get(HOST, "/");
    let grpc = "application/grpc".parse().unwrap();
    request.headers_mut().insert("content-type", grpc);
    let reply = client.ask(request).await.unwrap();
    assert_eq!((reply.status, &*reply.body), (200, &b""[..]));
    assert_eq!(reply.headers["grpc-status"], "14");
    let message = reply.headers["grpc-message"].to_str().unwrap();
    assert!(message.starts_with("upstream connect error"), "{message}");
    assert!(!reply.headers.contains_key("content-length"));
    let record = bed.record().await;
    assert_eq!(record.response_code, 200);
}

#[tokio::test]
async fn the_timeout_of_a_route_holds() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], Some(Duration::from_millis(200)))).await;
    let mut client = Client::new(&bed).await;
    let started = Instant::now();
    let reply = client.get(HOST, "/").await;
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!(
        (reply.status, reply.text()),
        (504, "upstream request timeout")
    );
    assert!(bed.record().await.flags.has(ResponseFlag::UT));
}

#[tokio::test]
async fn heads_that_envoy_does_not_judge_are_denied() {
    let bed = bed().await;
    let many = || {
        let mut request = get(HOST, "/");
        for number in 0..97 {
            let name: hyper::header::HeaderName = format!("a{number}").parse().unwrap();
            request.headers_mut().insert(name, "x".parse().unwrap());
        }
        request
    };
    let long = || {
        let mut request = get(HOST, "/");
        request
            .headers_mut()
            .insert("a", "x".repeat(61 * 1024).parse().unwrap());
        request
    };
    let relative = Request::get("/").body(()).unwrap();
    for (request, reason) in [
        (many(), Reason::INTERNAL_ERROR),
        (long(), Reason::INTERNAL_ERROR),
        (relative, Reason::PROTOCOL_ERROR),
    ] {
        let mut client = Client::new(&bed).await;
        let found = client.ask(request).await;
        assert_eq!(reset_of(found), Some(reason));
        let record = bed.record().await;
        assert_eq!(
            (record.response_code, record.flags.to_string()),
            (0, "DPE".into())
        );
        bed.denial().await;
        // The connection goes on.
        assert_eq!(client.get(HOST, "/").await.status, 200);
        bed.record().await;
    }
    let mut client = Client::new(&bed).await;
    let connect = Request::connect(format!("{HOST}:80")).body(()).unwrap();
    assert_eq!(client.ask(connect).await.unwrap().status, 404);
    assert_eq!(bed.denial().await, DenialReason::Connect);
    assert_eq!(client.get(HOST, "/%00").await.status, 400);
}

#[tokio::test]
async fn bytes_that_break_http2_end_the_connection_and_leave_a_reason() {
    for (bytes, answer) in [
        (&b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"[..], false),
        // SETTINGS, then a DATA frame on stream 0.
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\0\0\0\0\0\0x",
            true,
        ),
    ] {
        let bed = bed().await;
        let mut client = bed.client().await;
        client.send(bytes).await;
        let got = client.rest().await;
        assert_eq!(
            got.windows(2).any(|two| two == b"\x07\0"),
            answer,
            "GOAWAY in {got:?}"
        );
        let reason = bed.denial().await;
        assert!(
            matches!(reason, DenialReason::MalformedHttp(_)),
            "{reason:?}"
        );
    }
}

#[tokio::test]
async fn large_bodies_pass_both_ways_on_many_streams() {
    let bed = bed().await;
    let mut client = Client::new(&bed).await;
    let mut asked = Vec::new();
    for number in 0..8_u8 {
        let request = Request::post(format!("http://{HOST}/{number}"))
            .body(())
            .unwrap();
        let (response, mut stream) = client.begin(request, false).await;
        let body: Bytes = (0..1_000_000_u32)
            .map(|at| (at % 251) as u8 ^ number)
            .collect();
        let sent = body.clone();
        let sending = tokio::spawn(async move { write(&mut stream, sent, true).await });
        // All are read at the same time: they share the window of the connection.
        asked.push((tokio::spawn(whole(response)), body, sending));
    }
    for (reply, body, sending) in asked {
        sending.await.unwrap();
        let reply = reply.await.unwrap().unwrap();
        assert_eq!(reply.status, 200);
        assert!(reply.body.ends_with(&body));
    }
    let record = bed.record().await;
    assert_eq!(record.bytes_received, 1_000_000);
}

#[tokio::test]
async fn bodies_stream_and_are_not_gathered() {
    let go = Arc::new(Notify::new());
    let going = Arc::clone(&go);
    let origin = raw_origin(move |_, mut raw: Raw| {
        let going = Arc::clone(&going);
        async move {
            raw.head().await;
            raw.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
                .await;
            // The first part of the request's body, as a chunk.
            raw.take(b"5\r\nfirst\r\n".len()).await;
            going.notified().await;
            raw.send(b"3\r\ntwo\r\n0\r\nx-sum: 6\r\n\r\n").await;
            raw.rest().await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = Client::new(&bed).await;
    let request = Request::post(format!("http://{HOST}/")).body(()).unwrap();
    let (response, mut stream) = client.begin(request, false).await;
    let response = timeout(PATIENCE, response).await.unwrap().unwrap();
    let mut body = response.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "one");
    write(&mut stream, Bytes::from_static(b"first"), false).await;
    go.notify_one();
    let (rest, trailers) = read(&mut body).await.unwrap();
    assert_eq!(rest, b"two");
    assert_eq!(trailers.unwrap()["x-sum"], "6");
}

#[tokio::test]
async fn the_first_interim_response_reaches_the_client() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        let head = raw.head().await.unwrap();
        assert!(head.contains("expect: 100-continue"), "{head}");
        raw.send(
            b"HTTP/1.1 103 Early Hints\r\nlink: <a>\r\nconnection: x-hop\r\nx-hop: 1\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n\
              HTTP/1.1 100 Continue\r\n\r\n",
        )
        .await;
        raw.take(b"3\r\nabc\r\n0\r\n\r\n".len()).await;
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = Client::new(&bed).await;
    let request = Request::post(format!("http://{HOST}/"))
        .header("expect", "100-continue")
        .body(())
        .unwrap();
    let (mut response, mut stream) = client.begin(request, false).await;
    let next = std::future::poll_fn(|cx| response.poll_informational(cx));
    let interim = timeout(PATIENCE, next).await.unwrap().unwrap().unwrap();
    assert!(!interim.headers().contains_key("x-hop"), "{interim:?}");
    assert_eq!(interim.status(), StatusCode::EARLY_HINTS);
    write(&mut stream, Bytes::from_static(b"abc"), true).await;
    let next = std::future::poll_fn(|cx| response.poll_informational(cx));
    assert!(
        timeout(PATIENCE, next).await.unwrap().is_none(),
        "no further one"
    );
    assert_eq!(whole(response).await.unwrap().text(), "ok");
}

#[tokio::test]
async fn idle_upstream_connections_are_used_again_by_any_stream() {
    let (numbers, mut used) = mpsc::unbounded_channel();
    let origin = raw_origin(move |number, mut raw: Raw| {
        let numbers = numbers.clone();
        async move {
            while raw.head().await.is_some() {
                numbers.send(number).unwrap();
                raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await;
            }
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = Client::new(&bed).await;
    for _ in 0..5 {
        assert_eq!(client.get(HOST, "/").await.text(), "ok");
        assert_eq!(used.recv().await, Some(0));
    }
}

#[tokio::test]
async fn a_fixed_reply_without_a_body_ends_with_its_head() {
    let origin = fixed_origin("HTTP/1.1 204 No Content\r\n\r\n").await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = Client::new(&bed).await;
    let (response, _) = client.begin(get(HOST, "/"), true).await;
    let response = response.await.unwrap();
    assert_eq!(response.status(), 204);
    assert!(response.body().is_end_stream());
}
