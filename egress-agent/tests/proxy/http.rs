//! Which requests pass, with which headers, and the answers to the others.

use crate::raw::{Raw, echo_origin, get, raw_origin_on};
use crate::support::{Bed, HOST, destination, http_port, table};
use egress_agent::proxy::DenialReason;
use egress_agent::proxy::Limits;
use egress_core::routing::PortKind;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test]
async fn each_request_on_one_connection_is_judged_by_its_own_host() {
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    let mut client = bed.client().await;
    for round in 0..2 {
        let listed = client.ask(&get(HOST, "/headers")).await;
        assert_eq!(listed.status(), 200, "round {round}");
        let unlisted = client.ask(&get("evil.example", "/headers")).await;
        assert_eq!(
            (unlisted.status(), unlisted.text()),
            (502, ""),
            "round {round}"
        );
        assert_eq!(unlisted.header("server"), Some("envoy"));
        assert!(unlisted.header("date").is_some());
        assert_eq!(bed.denial().await, DenialReason::UnlistedHost);
    }
}

#[tokio::test]
async fn the_origin_sees_a_sidecars_headers_and_the_client_sees_envoy() {
    let bed = Bed::new(http_port(
        HOST,
        &[echo_origin().await],
        Some(Duration::from_secs(3)),
    ))
    .await;
    let mut client = bed.client().await;
    let reply = client
        .ask(
            "GET /headers?a=b HTTP/1.1\r\nHost: HTTPBIN.org:8080\r\nX-Envoy-Max-Retries: 9\r\n\r\n",
        )
        .await;
    let seen = reply.text();
    assert!(seen.starts_with("GET /headers?a=b HTTP/1.1\r\n"), "{seen}");
    for line in [
        "host: HTTPBIN.org:8080",
        "x-forwarded-proto: http",
        "x-request-id: ",
        "x-envoy-attempt-count: 1",
        "x-envoy-expected-rq-timeout-ms: 3000",
        "x-envoy-decorator-operation: httpbin.org:80/*",
        "x-b3-traceid: ",
        "x-b3-spanid: ",
        "x-b3-sampled: 0",
    ] {
        assert!(seen.contains(&format!("\r\n{line}")), "{line} in {seen}");
    }
    assert!(!seen.contains("max-retries"), "{seen}");
    assert_eq!(reply.header("server"), Some("envoy"));
    assert!(reply.header("x-envoy-upstream-service-time").is_some());
    let record = bed.record().await;
    assert_eq!(
        (
            record.response_code,
            record.flags.to_string().as_str(),
            record.host.as_str()
        ),
        (200, "-", "HTTPBIN.org:8080")
    );
    assert_eq!(record.bytes_sent, seen.len() as u64);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order_and_each_is_judged() {
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    let mut client = bed.client().await;
    client
        .send(
            [get(HOST, "/1"), get("evil.example", "/2"), get(HOST, "/3")]
                .concat()
                .as_bytes(),
        )
        .await;
    let mut replies = Vec::new();
    for _ in 0..3 {
        let reply = client.message().await.unwrap();
        replies.push((
            reply.status(),
            reply.text().split(' ').nth(1).map(str::to_owned),
        ));
    }
    assert_eq!(
        replies,
        [
            (200, Some("/1".into())),
            (502, None),
            (200, Some("/3".into()))
        ]
    );
}

#[tokio::test]
async fn the_path_of_an_absolute_target_goes_on_and_its_host_is_the_one_that_counts() {
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    let mut client = bed.client().await;
    let reply = client
        .ask(&format!(
            "GET http://{HOST}/a?b HTTP/1.1\r\nHost: evil.example\r\n\r\n"
        ))
        .await;
    assert!(
        reply.text().starts_with("GET /a?b HTTP/1.1\r\n"),
        "{}",
        reply.text()
    );
    assert!(
        reply.text().contains(&format!("\r\nhost: {HOST}\r\n")) && !reply.text().contains("evil"),
        "{}",
        reply.text()
    );
    let reply = client
        .ask(&format!(
            "GET http://evil.example/ HTTP/1.1\r\nHost: {HOST}\r\n\r\n"
        ))
        .await;
    assert_eq!(reply.status(), 502);
}

#[tokio::test]
async fn first_bytes_that_are_not_http_are_closed_and_recorded() {
    for (kind, bytes, reason) in [
        (
            PortKind::Http,
            &b"\x16\x03\x01\x02\x00"[..],
            DenialReason::WrongProtocol,
        ),
        (
            PortKind::Sniff,
            b"SSH-2.0-OpenSSH_9.2\r\n",
            DenialReason::UnknownProtocol,
        ),
        (
            PortKind::Sniff,
            b"GET / HTTP/1.0\r\n\r\n",
            DenialReason::Http10,
        ),
    ] {
        let mut port = http_port(HOST, &[echo_origin().await], None);
        port.kind = kind;
        let bed = Bed::new(port).await;
        let mut client = bed.client().await;
        client.send(bytes).await;
        let answer = client.rest().await;
        if reason == DenialReason::ConnectionLimit {
            // There may be no answer, because the reset of a socket with unread bytes may be faster.
            let told = answer.is_empty() || answer.starts_with(b"HTTP/1.1 503 ");
            assert!(told, "{answer:?}");
        } else {
            assert_eq!(answer, b"", "{reason}");
        }
        assert_eq!(bed.denial().await, reason);
    }
}

#[tokio::test]
async fn a_sniffed_port_speaks_http_too() {
    let mut port = http_port(HOST, &[echo_origin().await], None);
    port.kind = PortKind::Sniff;
    let bed = Bed::new(port).await;
    let mut client = bed.client().await;
    assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
    assert_eq!(client.ask(&get("evil.example", "/")).await.status(), 502);
}

#[tokio::test]
async fn a_flow_without_origin_or_beyond_the_limit_or_on_an_unlisted_port_is_closed() {
    let port = || http_port(HOST, &[], None);
    let none = Bed::with(port(), None, Limits::default()).await;
    let other = Bed::with(port(), Some(destination("192.0.2.1:81")), Limits::default()).await;
    let full = Bed::with(
        port(),
        Some(destination("192.0.2.1:80")),
        Limits {
            connections: 0,
            ..Limits::default()
        },
    )
    .await;
    for (bed, reason) in [
        (none, DenialReason::NoOrigin),
        (other, DenialReason::UnlistedPort),
        (full, DenialReason::ConnectionLimit),
    ] {
        let mut client = bed.client().await;
        client.send(get(HOST, "/").as_bytes()).await;
        let answer = client.rest().await;
        // A client above the limit gets an answer, unless the reset because of its unread request is faster.
        let told = reason == DenialReason::ConnectionLimit && answer.starts_with(b"HTTP/1.1 503 ");
        assert!(answer.is_empty() || told, "{reason}: {answer:?}");
        assert_eq!(bed.denial().await, reason);
    }
}

#[tokio::test]
async fn changed_rules_hold_for_the_next_request_on_a_live_connection() {
    let origin = echo_origin().await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
    bed.routes
        .store(Arc::new(table(http_port("other.example", &[origin], None))));
    assert_eq!(client.ask(&get(HOST, "/")).await.status(), 502);
    assert_eq!(client.ask(&get("other.example", "/")).await.status(), 200);
}

#[tokio::test]
async fn ipv6_is_served_like_ipv4() {
    let origin = raw_origin_on("[::1]:0", |_, mut raw: Raw| async move {
        while raw.message().await.is_some() {
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
        }
    })
    .await;
    let from = Some(destination("[2001:db8::1]:80"));
    let bed = Bed::on(
        "[::1]:0",
        http_port(HOST, &[origin], None),
        from,
        Limits::default(),
    )
    .await;
    let mut client = bed.client().await;
    assert_eq!(client.ask(&get(HOST, "/")).await.text(), "ok");
    assert_eq!(client.ask(&get("[2001:db8::1]", "/")).await.status(), 502);
    assert_eq!(bed.record().await.upstream, Some(origin));
}

#[tokio::test]
async fn a_grpc_client_gets_the_proxys_replies_in_its_form() {
    let refused = crate::raw::refused_address();
    let bed = Bed::new(http_port(HOST, &[refused], None)).await;
    for (host, content_type, status, message) in [
        ("evil.example", "application/grpc", "14", None),
        (
            HOST,
            "application/grpc+proto",
            "14",
            Some("upstream connect error"),
        ),
    ] {
        let mut client = bed.client().await;
        let reply = client
            .ask(&format!(
                "POST /a.B/C HTTP/1.1\r\nHost: {host}\r\nContent-Type: {content_type}\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        assert_eq!((reply.status(), reply.text()), (200, ""), "{host}");
        assert_eq!(reply.header("content-type"), Some("application/grpc"));
        assert_eq!(reply.header("grpc-status"), Some(status), "{host}");
        let told = reply.header("grpc-message").map(|text| &text[..22]);
        assert_eq!(told, message, "{host}");
        assert_eq!(bed.record().await.response_code, 200, "{host}");
    }
    assert_eq!(bed.denial().await, DenialReason::UnlistedHost);
}

#[tokio::test]
async fn options_of_the_whole_server_is_404_without_a_route_for_it() {
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    let mut client = bed.client().await;
    let request = format!("OPTIONS * HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    assert_eq!(client.ask(&request).await.status(), 404);
    assert_eq!(bed.denial().await, DenialReason::NoRoute);
    assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
}
