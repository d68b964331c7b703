//! Fields of one hop in requests: those that end the client's connection, and those that `connection` names.

use crate::http2_upstream::bed as bed_of_http2;
use crate::raw::{Message, Raw, echo_origin, fixed_origin, get, raw_origin};
use crate::streams::{ok, origin};
use crate::support::{Bed, HOST, http_port};
use tokio::sync::mpsc::unbounded_channel;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_proxy_connection_that_closes_ends_the_connection() {
    let bed = Bed::new(http_port(HOST, &[fixed_origin(OK).await], None)).await;
    let second = get(HOST, "/2");
    for (host, status, fields, closes) in [
        (HOST, 200, "proxy-connection: close", true),
        (HOST, 200, "Proxy-Connection: keep-alive, Close", true),
        (
            HOST,
            200,
            "proxy-connection: close\r\nconnection: keep-alive",
            true,
        ),
        ("gone.example", 502, "proxy-connection: close", true),
        (HOST, 200, "proxy-connection: keep-alive", false),
    ] {
        let mut client = bed.client().await;
        let first = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n\r\n");
        let reply = client.ask(&format!("{first}{second}")).await;
        assert_eq!(reply.status(), status, "{fields}");
        let close = closes.then_some("close");
        assert_eq!(reply.header("connection"), close, "{fields}");
        if closes {
            assert!(client.rest().await.is_empty(), "{fields}");
        } else {
            assert_eq!(client.message().await.unwrap().status(), 200, "{fields}");
        }
    }
}

#[tokio::test]
async fn a_proxy_connection_of_a_response_that_closes_ends_the_upstream_connection() {
    for (value, last) in [("close", "1"), ("keep-alive", "0")] {
        let origin = raw_origin(move |number, mut raw: Raw| async move {
            let head = format!("HTTP/1.1 200 OK\r\nproxy-connection: {value}");
            while raw.message().await.is_some() {
                let reply = format!("{head}\r\ncontent-length: 1\r\n\r\n{number}");
                raw.send(reply.as_bytes()).await;
            }
        })
        .await;
        let bed = Bed::new(http_port(HOST, &[origin], None)).await;
        let mut client = bed.client().await;
        assert_eq!(client.ask(&get(HOST, "/")).await.text(), "0");
        let reply = client.ask(&get(HOST, "/")).await;
        assert_eq!(
            (reply.text(), reply.header("proxy-connection")),
            (last, None)
        );
    }
}

#[tokio::test]
async fn a_body_whose_length_is_named_goes_on_in_chunks() {
    let (tells, mut told) = unbounded_channel::<Message>();
    let origin = raw_origin(move |_, mut raw: Raw| {
        let tells = tells.clone();
        async move {
            while let Some(message) = raw.message().await {
                tells.send(message).ok();
                raw.send(OK.as_bytes()).await;
            }
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    let post = format!(
        "POST /1 HTTP/1.1\r\nHost: {HOST}\r\nConnection: Content-Length\r\nContent-Length: 3\r\n\r\nabc"
    );
    // The request behind it begins where its length says.
    client
        .send(format!("{post}{}", get(HOST, "/2")).as_bytes())
        .await;
    for _ in 0..2 {
        assert_eq!(client.message().await.unwrap().text(), "ok");
    }
    let first = told.recv().await.unwrap();
    assert_eq!(first.header("content-length"), None);
    assert_eq!(first.header("transfer-encoding"), Some("chunked"));
    assert_eq!(first.body, b"abc");
    let second = told.recv().await.unwrap();
    assert!(second.head.starts_with("GET /2 "), "{}", second.head);
    assert_eq!(second.header("transfer-encoding"), None);
}

#[tokio::test]
async fn the_host_of_an_absolute_target_needs_no_field() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        while let Some(message) = raw.message().await {
            assert_eq!(message.header("host"), Some(HOST));
            raw.send(OK.as_bytes()).await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let absolute = |host: &str| format!("GET http://{host}/x HTTP/1.1\r\n\r\n");
    let mut client = bed.client().await;
    assert_eq!(client.ask(&absolute(HOST)).await.status(), 200);
    assert_eq!(client.ask(&absolute("gone.example")).await.status(), 502);
    // Neither does an empty port pass, nor a Host that `connection` names.
    let named = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: host\r\n\r\n");
    for (request, text) in [(absolute(&format!("{HOST}:")), "Bad Request"), (named, "")] {
        let mut client = bed.client().await;
        let reply = client.ask(&request).await;
        assert_eq!((reply.status(), reply.text()), (400, text), "{request}");
        assert_eq!(reply.header("connection"), Some("close"), "{request}");
        assert!(client.rest().await.is_empty(), "{request}");
    }
}

#[tokio::test]
async fn empty_lines_before_a_response_are_a_fault_of_the_origin() {
    for before in ["\r\n", "\n"] {
        let origin = raw_origin(move |_, mut raw: Raw| async move {
            raw.head().await.unwrap();
            raw.send(format!("{before}{OK}").as_bytes()).await;
            raw.rest().await;
        })
        .await;
        let bed = Bed::new(http_port(HOST, &[origin], None)).await;
        let reply = bed.client().await.ask(&get(HOST, "/")).await;
        assert_eq!(reply.status(), 502, "{before:?}");
        assert_eq!(bed.record().await.flags.to_string(), "UPE", "{before:?}");
    }
}

#[tokio::test]
async fn an_empty_te_goes_to_an_origin_of_http_1_only() {
    let request = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nte:\r\n\r\n");
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    let reply = bed.client().await.ask(&request).await;
    assert!(reply.text().contains("te: \r\n"), "{}", reply.text());
    let http2 = origin(|request, mut respond| async move {
        assert_eq!(request.headers().get("te"), None);
        respond.send_response(ok(), true).unwrap();
    });
    let reply = bed_of_http2(http2.await)
        .await
        .client()
        .await
        .ask(&request)
        .await;
    assert_eq!(reply.status(), 200);
}
