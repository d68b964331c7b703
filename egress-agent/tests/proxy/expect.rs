//! `Expect: 100-continue` and other 1xx responses pass from end to end; the proxy makes none.

use crate::raw::*;
use crate::support::*;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

fn post(length: usize) -> String {
    format!(
        "POST /put HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    )
}

/// An origin that sends `first` after each head, then reads the body, if it may, and sends `last`. The channel gets the
/// heads that it saw.
async fn origin(
    first: &'static str,
    reads: bool,
    last: &'static str,
) -> (SocketAddr, UnboundedReceiver<String>) {
    let (heads, seen) = unbounded_channel();
    let addr = raw_origin(move |_, mut raw| {
        let heads = heads.clone();
        async move {
            while let Some(head) = raw.head().await {
                heads.send(head.clone()).unwrap();
                raw.send(first.as_bytes()).await;
                if reads {
                    let length = head.split("content-length: ").nth(1);
                    let length = length.and_then(|text| text.split('\r').next());
                    raw.take(length.map_or(0, |text| text.parse().unwrap()))
                        .await;
                    raw.send(last.as_bytes()).await;
                }
            }
        }
    })
    .await;
    (addr, seen)
}

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn the_origin_asks_for_the_body_and_not_the_proxy() {
    let (addr, mut seen) = origin(CONTINUE, true, OK).await;
    let bed = Bed::new(http_port(HOST, &[addr], None)).await;
    let mut client = bed.client().await;
    for round in 0..3 {
        client.send(post(3).as_bytes()).await;
        let head = seen.recv().await.unwrap();
        assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
        assert_eq!(client.head().await.unwrap(), CONTINUE, "round {round}");
        client.send(b"abc").await;
        let reply = client.message().await.unwrap();
        assert_eq!((reply.status(), reply.text()), (200, "ok"), "round {round}");
        assert_eq!(reply.header("connection"), None);
        let record = bed.record().await;
        assert_eq!(
            (record.flags.to_string().as_str(), record.bytes_received),
            ("-", 3)
        );
    }
}

#[tokio::test]
async fn an_origin_that_asks_for_nothing_gets_the_body_when_the_client_sends_it() {
    let (addr, mut seen) = origin("", true, OK).await;
    let bed = Bed::new(http_port(HOST, &[addr], None)).await;
    let mut client = bed.client().await;
    client.send(post(3).as_bytes()).await;
    seen.recv().await.unwrap();
    let nothing = timeout(Duration::from_millis(200), client.head()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    client.send(b"abc").await;
    assert_eq!(client.message().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_early_answer_reaches_the_client_before_the_body_and_ends_the_connection() {
    for early in [
        "HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno",
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: /x\r\ncontent-length: 2\r\n\r\nno",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
    ] {
        let (addr, mut seen) = origin(early, false, "").await;
        let bed = Bed::new(http_port(HOST, &[addr], None)).await;
        let mut client = bed.client().await;
        let body = get(HOST, "/smuggled");
        client.send(post(body.len()).as_bytes()).await;
        let reply = client.message().await.unwrap();
        assert_eq!(&reply.head[..12], &early[..12]);
        assert_eq!(
            (reply.text(), reply.header("connection")),
            ("no", Some("close"))
        );
        seen.recv().await.unwrap();
        // The client sends the body anyway. It is not read as the next request.
        client.send(body.as_bytes()).await;
        client.send(get(HOST, "/next").as_bytes()).await;
        assert!(client.rest().await.is_empty());
        assert!(seen.try_recv().is_err(), "nothing more reaches the origin");
        let record = bed.record().await;
        assert_eq!(
            (record.flags.to_string().as_str(), record.bytes_received),
            ("-", 0)
        );
    }
}

#[tokio::test]
async fn a_denied_request_is_told_so_before_its_body() {
    let (addr, mut seen) = origin(CONTINUE, true, OK).await;
    let bed = Bed::new(http_port(HOST, &[addr], None)).await;
    let mut client = bed.client().await;
    client
        .send(post(3).replace(HOST, "evil.example").as_bytes())
        .await;
    let reply = client.message().await.unwrap();
    assert_eq!(
        (reply.status(), reply.header("connection")),
        (502, Some("close"))
    );
    client.send(get(HOST, "/").as_bytes()).await;
    assert!(client.rest().await.is_empty());
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn the_first_interim_response_passes_in_its_place() {
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n\
                 HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n";
    let (addr, _seen) = origin(early, true, OK).await;
    let bed = Bed::new(http_port(HOST, &[addr], None)).await;
    let mut client = bed.client().await;
    // Two requests at once: 1xx responses of the second come after the response of the first.
    client
        .send([get(HOST, "/1"), get(HOST, "/2")].concat().as_bytes())
        .await;
    for _ in 0..2 {
        // Envoy has no words for it, and passes no further one.
        let expected = "HTTP/1.1 103 Unknown\r\nlink: </a.css>\r\n\r\n";
        assert_eq!(client.head().await.unwrap(), expected);
        assert_eq!(client.message().await.unwrap().text(), "ok");
    }
}

#[tokio::test]
async fn an_interim_response_that_comes_too_late_is_left_out() {
    // The origin answers only after the proxy has answered 504.
    let (go, going) = tokio::sync::watch::channel(false);
    let addr = raw_origin(move |number, mut raw| {
        let mut going = going.clone();
        async move {
            raw.head().await;
            if number == 0 {
                going.wait_for(|go| *go).await.unwrap();
                raw.send(CONTINUE.as_bytes()).await;
            }
            raw.send(OK.as_bytes()).await;
            raw.rest().await;
        }
    })
    .await;
    let limit = Some(Duration::from_millis(200));
    let bed = Bed::new(http_port(HOST, &[addr], limit)).await;
    let mut client = bed.client().await;
    assert_eq!(client.ask(&get(HOST, "/slow")).await.status(), 504);
    go.send(true).unwrap();
    let reply = client.ask(&get(HOST, "/")).await;
    assert_eq!((reply.status(), reply.text()), (200, "ok"));
}
