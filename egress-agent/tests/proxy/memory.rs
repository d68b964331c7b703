//! The limit of the proxy's memory for one workload, for every use of memory.

use crate::raw::*;
use crate::support::*;
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::PortKind;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// The blocks of one workload: enough for one request with a short head (12 blocks), but not for two.
const ONE: usize = 4 * 20 * 4096;
const EXPECTING: &str =
    "POST / HTTP/1.1\r\nHost: httpbin.org\r\ncontent-length: 6\r\nexpect: 100-continue\r\n\r\n";

fn limits(room: Duration) -> Limits {
    Limits {
        memory: ONE,
        room,
        ..Limits::default()
    }
}

async fn bed(room: Duration) -> Bed {
    let origin = raw_origin(|_, mut raw| async move {
        while let Some(head) = raw.head().await {
            if head.contains("expect") {
                raw.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
                raw.take(6).await;
            }
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    let at = Some(destination("192.0.2.1:80"));
    Bed::with(http_port(HOST, &[origin], None), at, limits(room)).await
}

/// A client whose upload has begun, so that it holds its memory.
async fn uploading(bed: &Bed) -> Raw {
    let mut client = bed.client().await;
    client.send(EXPECTING.as_bytes()).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 100"));
    client
}

#[tokio::test]
async fn a_request_that_finds_no_memory_in_time_is_answered_503_and_recorded_with_its_reason() {
    let bed = bed(Duration::from_millis(100)).await;
    let mut held = uploading(&bed).await;
    let mut second = bed.client().await;
    let reply = second.ask(&get(HOST, "/")).await;
    assert_eq!((reply.status(), reply.text()), (503, "envoy overloaded"));
    assert_eq!(bed.denial().await, DenialReason::MemoryLimit);
    assert_eq!(bed.record().await.flags.to_string(), "UO");
    assert!(second.rest().await.is_empty(), "the connection is closed");
    held.send(b"whole!").await;
    assert_eq!(held.message().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_request_waits_for_memory_that_another_gives_back() {
    let bed = bed(PATIENCE).await;
    let held = uploading(&bed).await;
    let mut second = bed.client().await;
    second.send(get(HOST, "/").as_bytes()).await;
    let early = timeout(Duration::from_millis(300), second.message()).await;
    assert!(early.is_err(), "it was answered without memory");
    drop(held);
    assert_eq!(second.message().await.unwrap().status(), 200);
}

/// A server whose responses contain the number of their connection and their own number on it. It closes the connection
/// whose number the sender sets.
async fn numbering() -> (SocketAddr, watch::Sender<usize>) {
    let (end, ended) = watch::channel(usize::MAX);
    let origin = raw_origin(move |number, mut raw| {
        let mut ended = ended.clone();
        async move {
            let serve = async {
                let mut asked = 0;
                while raw.message().await.is_some() {
                    asked += 1;
                    let head = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
                    raw.send(format!("{head}{number}.{asked}").as_bytes()).await;
                }
            };
            tokio::select! {
                () = serve => {}
                _ = ended.wait_for(|end| *end == number) => {}
            }
        }
    });
    (origin.await, end)
}

/// Waits until this many of its connections are left.
async fn ended(end: &watch::Sender<usize>, left: usize) {
    // One receiver belongs to the listener.
    while end.receiver_count() > left + 1 {
        tokio::task::yield_now().await;
    }
}

async fn asked(client: &mut Raw, request: &str) -> String {
    let reply = client.ask(request).await;
    assert_eq!(reply.status(), 200, "{}", reply.text());
    reply.text().to_owned()
}

#[tokio::test]
async fn an_idle_connection_gives_its_memory_to_a_request_that_needs_it_and_goes_on() {
    let (origin, _end) = numbering().await;
    let at = Some(destination("192.0.2.1:80"));
    let bed = Bed::with(http_port(HOST, &[origin], None), at, limits(PATIENCE)).await;
    let start = Instant::now();
    let mut clients = [bed.client().await, bed.client().await, bed.client().await];
    for turn in 1..4 {
        for (number, client) in clients.iter_mut().enumerate() {
            // It uses its former upstream connection, which was idle too.
            let on = asked(client, &get(HOST, "/")).await;
            assert_eq!(on, format!("{number}.{turn}"));
        }
    }
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
}

#[tokio::test]
async fn an_upstream_connection_that_its_origin_closes_while_all_is_idle_is_not_used_again() {
    let post = "POST / HTTP/1.1\r\nHost: httpbin.org\r\ncontent-length: 1\r\n\r\nx";
    let (origin, end) = numbering().await;
    let at = Some(destination("192.0.2.1:80"));
    let bed = Bed::with(http_port(HOST, &[origin], None), at, limits(PATIENCE)).await;
    let mut client = bed.client().await;
    assert_eq!(asked(&mut client, post).await, "0.1");
    let mut other = bed.client().await;
    assert_eq!(asked(&mut other, post).await, "1.1", "the first is idle");
    end.send_replace(0);
    ended(&end, 1).await;
    // It must not be sent twice, so the answer would be 503.
    assert_eq!(asked(&mut client, post).await, "2.1");
}

#[tokio::test]
async fn a_head_that_begins_before_a_connection_is_idle_may_end_afterwards() {
    let (origin, _end) = numbering().await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    assert_eq!(asked(&mut client, &get(HOST, "/")).await, "0.1");
    let head = get(HOST, "/");
    let (first, rest) = head.split_at(20);
    client.send(first.as_bytes()).await;
    let early = timeout(Duration::from_millis(1500), client.message()).await;
    assert!(early.is_err(), "half a head was answered");
    assert_eq!(asked(&mut client, rest).await, "0.2");
}

#[tokio::test]
async fn bytes_that_are_read_before_a_flow_is_known_are_counted_too() {
    let origin = fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    // A record that announces a hello of 16 000 bytes, and a request line without an end.
    let hello = [&[22, 3, 1, 62, 128, 1, 0, 62, 124, 3, 3][..], &[0; 12_000]].concat();
    let line = [b"GET /".as_slice(), &vec![b'a'; 24_000]].concat();
    for (kind, bytes) in [(PortKind::Tls, hello), (PortKind::Sniff, line)] {
        let port = tls_port(kind, "tls.example", &[origin]);
        let at = Some(destination("192.0.2.1:80"));
        let bed = Bed::with(port, at, limits(PATIENCE)).await;
        let mut held = Vec::new();
        for _ in 0..6 {
            let mut client = bed.client().await;
            client.send(&bytes).await;
            held.push(client);
        }
        assert_eq!(bed.denial().await, DenialReason::MemoryLimit, "{kind:?}");
    }
}

#[tokio::test]
async fn a_response_that_nobody_reads_waits_at_its_origin() {
    const LENGTH: usize = 64 << 20;
    let (gone, mut given) = watch::channel(0_usize);
    let origin = raw_origin(move |_, mut raw| {
        let gone = gone.clone();
        async move {
            raw.head().await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LENGTH}\r\n\r\n");
            raw.send(head.as_bytes()).await;
            let part = vec![b'x'; 65_536];
            for _ in 0..LENGTH / 65_536 {
                raw.send(&part).await;
                gone.send_modify(|bytes| *bytes += 65_536);
            }
        }
    })
    .await;
    let at = Some(destination("192.0.2.1:80"));
    let bed = Bed::with(http_port(HOST, &[origin], None), at, Limits::default()).await;
    let mut client = bed.client().await;
    client.send(get(HOST, "/").as_bytes()).await;
    let quiet = Duration::from_millis(500);
    while let Ok(changed) = timeout(quiet, given.changed()).await {
        changed.unwrap();
    }
    // The rest is in the kernel's buffers of the two connections.
    let stuck = *given.borrow();
    assert!(stuck < LENGTH / 2, "{stuck} bytes are on their way");
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(
        client.take(LENGTH).await.map(|body| body.len()),
        Some(LENGTH)
    );
}
