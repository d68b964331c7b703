//! The proxy's HTTP/1.1 on real sockets: what passes, with which headers, and what is answered.

mod proxy_support;

use egress_agent::proxy::Limits;
use egress_agent::proxy::RefusalReason;
use egress_core::routing::PortKind;
use proxy_support::{
    Bed, Raw, destination, echo_origin, fixed_origin, get, http_port, raw_origin, raw_origin_on,
    refused_address, table,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

const HOST: &str = "httpbin.org";

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
        assert_eq!(bed.refusal().await, RefusalReason::UnlistedHost);
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
async fn an_upstream_connection_is_kept_for_the_next_request() {
    let (connections, mut seen) = mpsc::unbounded_channel();
    let origin = raw_origin(move |number, mut raw: Raw| {
        let connections = connections.clone();
        async move {
            connections.send(number).unwrap();
            while raw.message().await.is_some() {
                raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await;
            }
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    for _ in 0..5 {
        assert_eq!(client.ask(&get(HOST, "/")).await.text(), "ok");
    }
    assert_eq!(seen.recv().await, Some(0));
    assert!(seen.try_recv().is_err(), "one connection for all five");
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
async fn a_slow_answer_is_504_at_the_routes_timeout_and_the_connection_goes_on() {
    let origin = raw_origin(|number, mut raw: Raw| async move {
        raw.message().await;
        if number == 0 {
            raw.rest().await;
        }
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], Some(Duration::from_millis(300)))).await;
    let mut client = bed.client().await;
    let asked = Instant::now();
    let reply = client.ask(&get(HOST, "/delay/5")).await;
    let waited = asked.elapsed();
    assert_eq!(
        (reply.status(), reply.text()),
        (504, "upstream request timeout")
    );
    assert_eq!(
        (reply.header("content-length"), reply.header("content-type")),
        (Some("24"), Some("text/plain"))
    );
    assert!(
        (Duration::from_millis(300)..Duration::from_secs(3)).contains(&waited),
        "{waited:?}"
    );
    assert_eq!(bed.record().await.flags.to_string(), "UT");
    assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
}

#[tokio::test]
async fn the_timeout_counts_from_the_end_of_the_request() {
    let bed = Bed::new(http_port(
        HOST,
        &[echo_origin().await],
        Some(Duration::from_millis(500)),
    ))
    .await;
    let mut client = bed.client().await;
    client
        .send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 4\r\n\r\n").as_bytes())
        .await;
    // The client itself takes longer than the timeout.
    for byte in b"slow" {
        tokio::time::sleep(Duration::from_millis(200)).await;
        client.send(&[*byte]).await;
    }
    let reply = client.message().await.unwrap();
    assert_eq!(reply.status(), 200);
    assert!(reply.text().ends_with("slow"));
}

#[tokio::test]
async fn a_timeout_after_the_headers_breaks_the_response_off() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        raw.message().await;
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
            .await;
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], Some(Duration::from_millis(300)))).await;
    let mut client = bed.client().await;
    client.send(get(HOST, "/").as_bytes()).await;
    assert!(
        client
            .head()
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200 OK\r\n")
    );
    assert_eq!(client.rest().await, b"half");
    assert_eq!(bed.record().await.flags.to_string(), "UT");
}

#[tokio::test]
async fn an_upstream_that_cannot_be_had_is_envoys_503() {
    let nobody = Bed::new(http_port(HOST, &[], None)).await;
    let reply = nobody.client().await.ask(&get(HOST, "/")).await;
    assert_eq!((reply.status(), reply.text()), (503, "no healthy upstream"));
    assert_eq!(nobody.record().await.flags.to_string(), "UH");

    let refused = Bed::new(http_port(HOST, &[refused_address().await], None)).await;
    let reply = refused.client().await.ask(&get(HOST, "/")).await;
    assert_eq!(reply.status(), 503);
    assert_eq!(
        reply.text(),
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote \
         connection failure, transport failure reason: delayed connect error: Connection refused"
    );
    let record = refused.record().await;
    assert_eq!(
        (record.flags.to_string().as_str(), record.attempts),
        ("URX,UF", 3)
    );

    let ended = raw_origin(|_, mut raw: Raw| async move { drop(raw.head().await) }).await;
    let ended = Bed::new(http_port(HOST, &[ended], None)).await;
    let reply = ended.client().await.ask(&get(HOST, "/")).await;
    let text = "upstream connect error or disconnect/reset before headers. reset reason: connection termination";
    assert_eq!((reply.status(), reply.text()), (503, text));
    assert_eq!(ended.record().await.flags.to_string(), "UC");

    let garbage = Bed::new(http_port(
        HOST,
        &[fixed_origin("SSH-2.0-OpenSSH\r\n\r\n").await],
        None,
    ))
    .await;
    let reply = garbage.client().await.ask(&get(HOST, "/")).await;
    let text =
        "upstream connect error or disconnect/reset before headers. reset reason: protocol error";
    assert_eq!((reply.status(), reply.text()), (502, text));
    assert_eq!(garbage.record().await.flags.to_string(), "UPE");
}

#[tokio::test]
async fn another_endpoint_is_tried_where_one_refuses() {
    let dead = refused_address().await;
    let live = echo_origin().await;
    let bed = Bed::with(
        http_port(HOST, &[dead, live], None),
        Some(destination(&dead.to_string())),
        Limits::default(),
    );
    let bed = {
        // The dialled port is what routes are looked up by.
        let bed = bed.await;
        let mut routes = table(http_port(HOST, &[dead, live], None));
        let policy = routes.policies.get(&proxy_support::POLICY).unwrap().ports[&80].clone();
        let ports = [(dead.port(), policy)].into();
        routes.policies.insert(
            proxy_support::POLICY,
            Arc::new(egress_core::routing::PolicyRoutes { ports }),
        );
        bed.routes.store(Arc::new(routes));
        bed
    };
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    assert_eq!(reply.status(), 200);
    assert!(
        reply.text().contains("x-envoy-attempt-count: 2"),
        "{}",
        reply.text()
    );
    assert_eq!(bed.record().await.upstream, Some(live));
}

#[tokio::test]
async fn a_kept_connection_that_the_origin_closed_is_replaced() {
    // The first connection answers once, then takes the next request and closes without a byte.
    let origin = raw_origin(|number, mut raw: Raw| async move {
        raw.message().await;
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
        if number == 0 {
            raw.head().await;
        } else {
            raw.rest().await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
    assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
    assert_eq!(
        (bed.record().await.attempts, bed.record().await.attempts),
        (1, 2)
    );
}

#[tokio::test]
async fn a_request_that_may_have_been_processed_is_not_sent_twice() {
    let origin = raw_origin(|number, mut raw: Raw| async move {
        assert_eq!(number, 0, "the POST came twice");
        raw.message().await;
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            .await;
        raw.message().await;
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
    let reply = client
        .ask(&format!(
            "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc"
        ))
        .await;
    assert_eq!(reply.status(), 503);
    assert!(
        reply
            .text()
            .ends_with("reset reason: connection termination"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn head_has_no_body_and_what_follows_is_in_step() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        while let Some(head) = raw.head().await {
            let body = if head.starts_with("HEAD") {
                ""
            } else {
                "hello"
            };
            raw.send(format!("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{body}").as_bytes())
                .await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    for host in [HOST, "evil.example"] {
        client
            .send(format!("HEAD / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
            .await;
        let head = client.head().await.unwrap();
        assert!(
            head.contains(if host == HOST {
                "content-length: 5"
            } else {
                "502"
            }),
            "{head}"
        );
    }
    assert_eq!(client.ask(&get(HOST, "/")).await.text(), "hello");
}

#[tokio::test]
async fn chunked_bodies_pass_both_ways() {
    let reply = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let (bodies, mut seen) = mpsc::unbounded_channel();
    let origin = raw_origin(move |_, mut raw: Raw| {
        let bodies = bodies.clone();
        async move {
            while let Some(message) = raw.message().await {
                bodies
                    .send((
                        message.header("transfer-encoding").map(str::to_owned),
                        message.body,
                    ))
                    .unwrap();
                raw.send(reply.as_bytes()).await;
            }
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    );
    let reply = client.ask(&chunked).await;
    assert_eq!(
        (reply.text(), reply.header("transfer-encoding")),
        ("hello world", Some("chunked"))
    );
    assert_eq!(
        seen.recv().await.unwrap(),
        (Some("chunked".into()), b"abcde".to_vec())
    );
}

#[tokio::test]
async fn large_bodies_pass_both_ways_unchanged() {
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    let mut client = bed.client().await;
    let body: Vec<u8> = (0..4_000_000_u32)
        .map(|number| (number % 251) as u8)
        .collect();
    client
        .send(
            format!(
                "POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )
            .as_bytes(),
        )
        .await;
    client.send(&body).await;
    let reply = client.message().await.unwrap();
    assert!(reply.body.ends_with(&body));
    assert_eq!(bed.record().await.bytes_received, body.len() as u64);
}

#[tokio::test]
async fn a_response_streams_and_is_not_gathered() {
    let (go, going) = tokio::sync::oneshot::channel();
    let going = Arc::new(tokio::sync::Mutex::new(Some(going)));
    let origin = raw_origin(move |_, mut raw: Raw| {
        let going = Arc::clone(&going);
        async move {
            raw.message().await;
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
                .await;
            going.lock().await.take().unwrap().await.unwrap();
            raw.send(b"done").await;
            raw.rest().await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    client.send(get(HOST, "/").as_bytes()).await;
    client.head().await.unwrap();
    assert_eq!(client.take(4).await.unwrap(), b"half");
    go.send(()).unwrap();
    assert_eq!(client.take(4).await.unwrap(), b"done");
}

#[tokio::test]
async fn expect_continue_is_answered_before_the_body() {
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    let mut client = bed.client().await;
    client.send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await;
    assert_eq!(
        client.head().await.unwrap(),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.send(b"abc").await;
    let reply = client.message().await.unwrap();
    assert!(
        reply.text().ends_with("abc") && !reply.text().contains("expect"),
        "{}",
        reply.text()
    );
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_upstream_with_it() {
    let (closed, mut seen) = mpsc::unbounded_channel();
    let origin = raw_origin(move |_, mut raw: Raw| {
        let closed = closed.clone();
        async move {
            raw.message().await;
            closed.send("asked").unwrap();
            raw.rest().await;
            closed.send("closed").unwrap();
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    client.send(get(HOST, "/delay/5").as_bytes()).await;
    assert_eq!(seen.recv().await, Some("asked"));
    drop(client);
    assert_eq!(
        tokio::time::timeout(proxy_support::PATIENCE, seen.recv())
            .await
            .unwrap(),
        Some("closed")
    );
    let record = bed.record().await;
    assert_eq!(
        (record.response_code, record.flags.to_string().as_str()),
        (0, "DC")
    );
}

#[tokio::test]
async fn a_websocket_passes_and_other_upgrades_do_not() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        let head = raw.head().await.unwrap();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        raw.send(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
        let ping = raw.take(4).await.unwrap();
        raw.send(&ping).await;
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], Some(Duration::from_secs(3)))).await;
    let upgrade = |to: &str| {
        format!("GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: {to}\r\n\r\n")
    };
    let mut client = bed.client().await;
    client.send(upgrade("websocket").as_bytes()).await;
    let head = client.head().await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101") && head.contains("upgrade: websocket"),
        "{head}"
    );
    client.send(b"ping").await;
    assert_eq!(client.take(4).await.unwrap(), b"ping");
    drop(client);
    let record = bed.record().await;
    assert_eq!(
        (
            record.response_code,
            record.bytes_received,
            record.bytes_sent
        ),
        (101, 4, 4)
    );
    assert_eq!(
        bed.client().await.ask(&upgrade("TLS/1.0")).await.status(),
        403
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
async fn a_request_that_two_readers_could_frame_or_address_differently_never_goes_up() {
    let forbidden = raw_origin(|_, mut raw: Raw| async move {
        let head = raw.head().await;
        panic!("the origin was asked: {head:?}");
    })
    .await;
    for (what, request, status) in [
        (
            "CL and TE",
            "POST / HTTP/1.1\r\nHost: httpbin.org\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "TE and CL",
            "POST / HTTP/1.1\r\nHost: httpbin.org\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nHost: httpbin.org\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
            400,
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nHost: httpbin.org\r\nContent-Length: +4\r\n\r\nabcd",
            400,
        ),
        (
            "TE not chunked",
            "POST / HTTP/1.1\r\nHost: httpbin.org\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "TE with more behind",
            "POST / HTTP/1.1\r\nHost: httpbin.org\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            400,
        ),
        (
            "space before colon",
            "GET / HTTP/1.1\r\nHost : httpbin.org\r\n\r\n",
            400,
        ),
        (
            "folded header",
            "GET / HTTP/1.1\r\nHost: httpbin.org\r\nA: b\r\n c\r\n\r\n",
            400,
        ),
        (
            "two Hosts",
            "GET / HTTP/1.1\r\nHost: httpbin.org\r\nHost: evil.example\r\n\r\n",
            502,
        ),
        ("no Host", "GET / HTTP/1.1\r\n\r\n", 400),
        (
            "NUL in Host",
            "GET / HTTP/1.1\r\nHost: httpbin.org\0.evil.example\r\n\r\n",
            400,
        ),
        (
            "https target",
            "GET https://httpbin.org/ HTTP/1.1\r\nHost: httpbin.org\r\n\r\n",
            400,
        ),
        (
            "user in Host",
            "GET / HTTP/1.1\r\nHost: httpbin.org@evil.example\r\n\r\n",
            502,
        ),
        (
            "brackets",
            "GET / HTTP/1.1\r\nHost: [httpbin.org]\r\n\r\n",
            502,
        ),
        (
            "longer name",
            "GET / HTTP/1.1\r\nHost: httpbin.org.evil.example\r\n\r\n",
            502,
        ),
        (
            "suffix",
            "GET / HTTP/1.1\r\nHost: evilhttpbin.org\r\n\r\n",
            502,
        ),
        (
            "CONNECT",
            "CONNECT httpbin.org:80 HTTP/1.1\r\nHost: httpbin.org:80\r\n\r\n",
            404,
        ),
        (
            "CONNECT elsewhere",
            "CONNECT evil.example:80 HTTP/1.1\r\nHost: httpbin.org\r\n\r\n",
            404,
        ),
        (
            "HTTP/1.0",
            "GET / HTTP/1.0\r\nHost: httpbin.org\r\n\r\n",
            426,
        ),
        ("garbage", "\0\0\0\0\r\n\r\n", 400),
    ] {
        let bed = Bed::new(http_port(HOST, &[forbidden], None)).await;
        let mut client = bed.client().await;
        let reply = client.ask(request).await;
        assert_eq!(reply.status(), status, "{what}: {}", reply.head);
        assert!(
            reply.head.starts_with("HTTP/1.1 "),
            "{what}: {}",
            reply.head
        );
        bed.refusal().await;
    }
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_431() {
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    let large = |size: usize| {
        format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nX-Large: {}\r\n\r\n",
            "a".repeat(size)
        )
    };
    assert_eq!(bed.client().await.ask(&large(50_000)).await.status(), 200);
    assert_eq!(bed.client().await.ask(&large(70_000)).await.status(), 431);
}

#[tokio::test]
async fn first_bytes_that_are_not_http_are_closed_and_recorded() {
    for (kind, bytes, reason) in [
        (
            PortKind::Http,
            &b"\x16\x03\x01\x02\x00"[..],
            RefusalReason::WrongProtocol,
        ),
        (
            PortKind::Http,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            RefusalReason::Http2,
        ),
        (
            PortKind::Sniff,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            RefusalReason::Http2,
        ),
        (
            PortKind::Sniff,
            b"SSH-2.0-OpenSSH_9.2\r\n",
            RefusalReason::UnknownProtocol,
        ),
        (
            PortKind::Sniff,
            b"GET / HTTP/1.0\r\n\r\n",
            RefusalReason::Http10,
        ),
    ] {
        let mut port = http_port(HOST, &[echo_origin().await], None);
        port.kind = kind;
        let bed = Bed::new(port).await;
        let mut client = bed.client().await;
        client.send(bytes).await;
        assert_eq!(client.rest().await, b"", "{reason}");
        assert_eq!(bed.refusal().await, reason);
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
        (none, RefusalReason::NoOrigin),
        (other, RefusalReason::UnlistedPort),
        (full, RefusalReason::ConnectionLimit),
    ] {
        let mut client = bed.client().await;
        client.send(get(HOST, "/").as_bytes()).await;
        assert_eq!(client.rest().await, b"", "{reason}");
        assert_eq!(bed.refusal().await, reason);
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
async fn a_drain_lets_requests_finish_and_closes_idle_connections() {
    let (asked, mut seen) = mpsc::unbounded_channel();
    let (go, going) = tokio::sync::watch::channel(false);
    let origin = raw_origin(move |_, mut raw: Raw| {
        let (asked, mut going) = (asked.clone(), going.clone());
        async move {
            let message = raw.message().await.unwrap();
            if message.head.starts_with("GET /slow") {
                asked.send(()).unwrap();
                going.wait_for(|go| *go).await.unwrap();
            }
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
            raw.rest().await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let (mut idle, mut unused, mut busy) =
        (bed.client().await, bed.client().await, bed.client().await);
    assert_eq!(idle.ask(&get(HOST, "/")).await.text(), "ok");
    busy.send(get(HOST, "/slow").as_bytes()).await;
    seen.recv().await.unwrap();
    bed.drain
        .start(tokio::time::Instant::now() + proxy_support::PATIENCE);
    assert_eq!((idle.rest().await, unused.rest().await), (vec![], vec![]));
    go.send(true).unwrap();
    let reply = busy.message().await.unwrap();
    assert_eq!(
        (reply.text(), reply.header("connection")),
        ("ok", Some("close"))
    );
    tokio::time::timeout(proxy_support::PATIENCE, bed.serving)
        .await
        .unwrap()
        .unwrap();
    assert!(
        tokio::net::TcpStream::connect(bed.proxy).await.is_err(),
        "the listener is closed"
    );
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline() {
    let (asked, mut seen) = mpsc::unbounded_channel();
    let origin = raw_origin(move |_, mut raw: Raw| {
        let asked = asked.clone();
        async move {
            raw.message().await;
            asked.send(()).unwrap();
            raw.rest().await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut busy = bed.client().await;
    busy.send(get(HOST, "/").as_bytes()).await;
    seen.recv().await.unwrap();
    bed.drain
        .start(tokio::time::Instant::now() + Duration::from_millis(100));
    tokio::time::timeout(proxy_support::PATIENCE, bed.serving)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(busy.rest().await, b"");
}

/// An address at which connects hang: its backlog is full and nobody accepts.
async fn hanging_address() -> (std::net::SocketAddr, impl Sized) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let addr = full.local_addr().unwrap();
    let mut held = Vec::new();
    let patience = Duration::from_millis(300);
    while let Ok(stream) =
        tokio::time::timeout(patience, tokio::net::TcpStream::connect(addr)).await
    {
        held.push(stream.unwrap());
    }
    (addr, (full, held))
}

#[tokio::test]
async fn the_timeout_of_a_request_with_a_body_runs_while_no_upstream_can_be_had() {
    let (hanging, _held) = hanging_address().await;
    let bed = Bed::new(http_port(
        HOST,
        &[hanging],
        Some(Duration::from_millis(300)),
    ))
    .await;
    let request = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc");
    let asked = Instant::now();
    let reply = bed.client().await.ask(&request).await;
    assert_eq!(
        (reply.status(), reply.text()),
        (504, "upstream request timeout")
    );
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
}

#[tokio::test]
async fn a_connect_that_hangs_is_envoys_connection_timeout() {
    let (hanging, _held) = hanging_address().await;
    let limits = Limits {
        connect: Duration::from_millis(50),
        ..Limits::default()
    };
    let from = Some(destination("192.0.2.1:80"));
    let bed = Bed::with(http_port(HOST, &[hanging], None), from, limits).await;
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    let text = "upstream connect error or disconnect/reset before headers. \
                retried and the latest reset reason: connection timeout";
    assert_eq!((reply.status(), reply.text()), (503, text));
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
async fn the_head_of_a_chunked_answer_claims_no_length() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        while raw.head().await.is_some() {
            raw.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
                .await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    client
        .send(format!("HEAD / HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes())
        .await;
    let head = client.head().await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK") && !head.contains("content-length"),
        "{head}"
    );
}
