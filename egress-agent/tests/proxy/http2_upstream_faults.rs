//! HTTP/2 origins that fail, reset or close.

use crate::http2_upstream::bed;
use crate::raw::{Raw, raw_origin};
use crate::streams::{Client, get, ok, origin, write};
use crate::support::{HOST, PATIENCE};
use egress_core::http::response_flags::ResponseFlag;
use h2::Reason;
use std::sync::Arc;
use tokio::time::timeout;

#[tokio::test]
async fn an_origin_that_fails_is_told_as_envoy_tells_it() {
    let garbage = raw_origin(|_, mut raw: Raw| async move {
        raw.take(24).await;
        raw.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        raw.rest().await;
    })
    .await;
    let reset = |reason| origin(move |_, mut respond| async move { respond.send_reset(reason) });
    let gone = raw_origin(|_, mut raw: Raw| async move {
        raw.take(24).await;
    })
    .await;
    for (endpoint, status, words, flag) in [
        (garbage, 502, "protocol error", ResponseFlag::UPE),
        (
            reset(Reason::INTERNAL_ERROR).await,
            503,
            "remote reset",
            ResponseFlag::UR,
        ),
        (gone, 503, "connection termination", ResponseFlag::UC),
    ] {
        let bed = bed(endpoint).await;
        let reply = Client::new(&bed).await.get(HOST, "/").await;
        assert_eq!(reply.status, status, "{}", reply.text());
        assert!(reply.text().ends_with(words), "{}", reply.text());
        assert!(bed.record().await.flags.has(flag), "{words}");
    }
}

#[tokio::test]
async fn a_reset_after_the_head_resets_the_client() {
    let go = Arc::new(tokio::sync::Notify::new());
    let going = Arc::clone(&go);
    let origin = origin(move |_, mut respond| {
        let going = Arc::clone(&going);
        async move {
            let mut stream = respond.send_response(ok(), false).unwrap();
            write(&mut stream, "part".into(), false).await;
            going.notified().await;
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
    })
    .await;
    let bed = bed(origin).await;
    let mut client = Client::new(&bed).await;
    let mut body = client.body(get(HOST, "/")).await;
    assert_eq!(body.data().await.unwrap().unwrap(), "part");
    go.notify_one();
    let ended = timeout(PATIENCE, body.data())
        .await
        .expect("the stream ends");
    assert!(ended.unwrap().unwrap_err().is_reset());
    assert!(bed.record().await.flags.has(ResponseFlag::UR));
}

#[tokio::test]
async fn a_connection_that_the_origin_closed_is_replaced() {
    let origin = raw_origin(|_, raw: Raw| async move {
        let mut connection = h2::server::handshake(raw.stream).await.unwrap();
        if let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_response(ok(), true).unwrap();
            connection.graceful_shutdown();
            while connection.accept().await.is_some() {}
        }
    })
    .await;
    let bed = bed(origin).await;
    let mut client = Client::new(&bed).await;
    for _ in 0..5 {
        assert_eq!(client.get(HOST, "/").await.status, 200);
    }
}
