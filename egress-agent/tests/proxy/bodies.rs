//! Bodies and upgrades on their way through the proxy.

use crate::raw::{Raw, echo_origin, get, raw_origin};
use crate::support::{Bed, HOST, PATIENCE, http_port};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

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
        tokio::time::timeout(PATIENCE, seen.recv()).await.unwrap(),
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
        assert!(head.contains("upgrade: websocket") && head.contains("connection: Upgrade"), "{head}");
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
            record.bytes_sent,
            record.flags.to_string().as_str()
        ),
        (101, 4, 4, "DC")
    );
    assert_eq!(
        bed.client().await.ask(&upgrade("TLS/1.0")).await.status(),
        403
    );
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
