//! How HTTP/2 streams of clients end before their time: given up, removed, or drained.

use crate::raw::{Raw, raw_origin};
use crate::streams::{Client, get, read};
use crate::support::{Bed, HOST, PATIENCE, http_port};
use egress_agent::proxy::DenialReason;
use egress_core::http::response_flags::ResponseFlag;
use egress_core::routing::PortRoutes;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

#[tokio::test]
async fn a_client_that_gives_a_stream_up_closes_its_upstream_and_keeps_its_connection() {
    let (told, mut closed) = mpsc::unbounded_channel();
    let origin = raw_origin(move |_, mut raw: Raw| {
        let told = told.clone();
        async move {
            let head = raw.head().await.unwrap();
            if head.starts_with("GET /hang") {
                told.send("begun").unwrap();
                raw.rest().await;
                told.send("closed").unwrap();
            } else {
                raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = Client::new(&bed).await;
    let (response, stream) = client.begin(get(HOST, "/hang"), true).await;
    assert_eq!(closed.recv().await, Some("begun"));
    drop((response, stream));
    assert_eq!(
        timeout(PATIENCE, closed.recv()).await.unwrap(),
        Some("closed")
    );
    assert!(bed.record().await.flags.has(ResponseFlag::DC));
    assert_eq!(client.get(HOST, "/").await.status, 200);
}

#[tokio::test]
async fn a_removed_rule_ends_its_streams_and_no_others() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        raw.head().await;
        raw.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            .await;
        raw.rest().await;
    })
    .await;
    let both = || {
        let mut port = http_port(HOST, &[origin], None);
        let other = http_port("other.example", &[origin], None);
        let mut hosts = crate::support::entries(&port.hosts);
        hosts.extend(crate::support::entries(&other.hosts));
        port.hosts = hosts.into();
        port
    };
    let bed = Bed::new(both()).await;
    let mut client = Client::new(&bed).await;
    let mut bodies = Vec::new();
    for host in [HOST, "other.example"] {
        let (response, _) = client.begin(get(host, "/"), true).await;
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "one");
        bodies.push(body);
    }
    bed.change(http_port("other.example", &[origin], None));
    let ended = timeout(PATIENCE, bodies[0].data())
        .await
        .expect("the stream ends");
    assert!(ended.unwrap().unwrap_err().is_reset());
    assert_eq!(bed.denial().await, DenialReason::Removed);
    let open = timeout(Duration::from_millis(100), bodies[1].data()).await;
    assert!(open.is_err(), "{open:?}");
    // Nothing is listed on the port: the connection ends.
    bed.change(PortRoutes::default());
    bed.put(crate::support::table(PortRoutes::default()));
    let ended = timeout(PATIENCE, bodies[1].data())
        .await
        .expect("the stream ends");
    assert!(ended.unwrap().is_err());
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_takes_no_new_ones() {
    let (go, _) = tokio::sync::broadcast::channel::<()>(1);
    let going = go.clone();
    let origin = raw_origin(move |_, mut raw: Raw| {
        let mut going = going.subscribe();
        async move {
            raw.head().await;
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\none")
                .await;
            going.recv().await.ok();
            raw.send(b"two").await;
            raw.rest().await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = Client::new(&bed).await;
    let (response, _) = client.begin(get(HOST, "/"), true).await;
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "one");
    bed.drain.start(tokio::time::Instant::now() + PATIENCE);
    go.send(()).unwrap();
    assert_eq!(read(&mut body).await.unwrap().0, b"two");
    let ended = timeout(PATIENCE, client.driver)
        .await
        .expect("the connection ends");
    ended.unwrap().unwrap();
}
