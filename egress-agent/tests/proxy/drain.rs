//! Which connections a drain lets finish, and which ones it ends.

use crate::raw::{Raw, get, raw_origin};
use crate::support::{Bed, HOST, PATIENCE, http_port};
use std::time::Duration;
use tokio::sync::mpsc;

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
    bed.drain.start(tokio::time::Instant::now() + PATIENCE);
    assert_eq!((idle.rest().await, unused.rest().await), (vec![], vec![]));
    go.send(true).unwrap();
    let reply = busy.message().await.unwrap();
    assert_eq!(
        (reply.text(), reply.header("connection")),
        ("ok", Some("close"))
    );
    tokio::time::timeout(PATIENCE, bed.serving)
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
    tokio::time::timeout(PATIENCE, bed.serving)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(busy.rest().await, b"");
}

#[tokio::test]
async fn while_the_open_connections_retire_others_are_served_until_the_end() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        while raw.message().await.is_some() {
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut early = bed.client().await;
    assert_eq!(early.ask(&get(HOST, "/")).await.text(), "ok");
    {
        let retired = bed.drain.retire();
        let mut retired = std::pin::pin!(retired);
        // The drain has begun, and the connection has not ended yet.
        let once = |cx: &mut std::task::Context<'_>| {
            std::task::Poll::Ready(retired.as_mut().poll(cx).is_pending())
        };
        assert!(std::future::poll_fn(once).await);
        assert_eq!(early.rest().await, b"");
        tokio::time::timeout(PATIENCE, retired).await.unwrap();
    }
    let mut late = bed.client().await;
    assert_eq!(late.ask(&get(HOST, "/")).await.text(), "ok");
    assert_eq!(late.ask(&get(HOST, "/")).await.text(), "ok");
    bed.drain.start(tokio::time::Instant::now() + PATIENCE);
    assert_eq!(late.rest().await, b"");
    tokio::time::timeout(PATIENCE, bed.serving)
        .await
        .unwrap()
        .unwrap();
}
