//! Upstream connections and the route's timeout: which connections are kept, which requests are repeated, and the
//! replies instead of a response.

use crate::raw::{Raw, echo_origin, fixed_origin, get, raw_origin, refused_address};
use crate::support::{Bed, HOST, POLICY, destination, http_port, table};
use egress_agent::proxy::Limits;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use tokio::sync::mpsc;

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

    let refused = Bed::new(http_port(HOST, &[refused_address()], None)).await;
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
    let dead = refused_address();
    let live = echo_origin().await;
    let bed = Bed::with(
        http_port(HOST, &[dead, live], None),
        Some(destination(&dead.to_string())),
        Limits::default(),
    );
    let bed = {
        // Routes are looked up by the dialled port.
        let bed = bed.await;
        let mut routes = table(http_port(HOST, &[dead, live], None));
        let policy = routes.policies.get(&POLICY).unwrap().ports[&80].clone();
        let ports = [(dead.port(), policy)].into();
        routes.policies.insert(
            POLICY,
            Arc::new(egress_core::routing::PolicyRoutes {
                ports,
                ..Default::default()
            }),
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

/// An address at which connects hang, because its backlog is full and nothing accepts.
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
async fn a_body_that_was_read_ahead_during_a_failed_try_reaches_the_next_endpoint_whole() {
    let (dead, live) = (refused_address(), echo_origin().await);
    let body: Vec<u8> = (0..300_000_u32)
        .map(|number| (number % 249) as u8)
        .collect();
    // Each request starts at another endpoint, so for each framing one request meets the dead endpoint first.
    let bed = Bed::new(http_port(HOST, &[dead, live], None)).await;
    let mut attempts = Vec::new();
    let framings = [
        format!("Content-Length: {}", body.len()),
        "Transfer-Encoding: chunked".to_owned(),
    ];
    for framing in framings.iter().flat_map(|framing| [framing, framing]) {
        let mut client = bed.client().await;
        client
            .send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n\r\n").as_bytes())
            .await;
        if framing.ends_with("chunked") {
            client
                .send(format!("{:x}\r\n", body.len()).as_bytes())
                .await;
            client.send(&body).await;
            client.send(b"\r\n0\r\n\r\n").await;
        } else {
            client.send(&body).await;
        }
        let reply = client.message().await.unwrap();
        assert!(
            reply.status() == 200 && reply.body.ends_with(&body),
            "{framing}"
        );
        attempts.push(bed.record().await.attempts);
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 1, 2, 2]);
}
