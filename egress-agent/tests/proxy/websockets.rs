//! WebSockets: records at each end, and origins that speak HTTP/2 (RFC 8441).

use crate::http2_upstream::port;
use crate::raw::{Raw, raw_origin};
use crate::streams::{read, write};
use crate::support::{Bed, HOST, PATIENCE, http_port};
use bytes::Bytes;
use egress_core::traffic::UpstreamProtocol;
use h2::ext::Protocol;
use h2::server::{Builder, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use hyper::{Method, Request, Response};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

const SWITCH: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";

fn upgrade() -> String {
    format!(
        "GET /ws?a=1 HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n\r\n"
    )
}

/// A client whose upgrade was answered.
async fn switched(bed: &Bed) -> Raw {
    let mut client = bed.client().await;
    client.send(upgrade().as_bytes()).await;
    let head = client.head().await.unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{head}"
    );
    assert!(head.contains("upgrade: websocket\r\n"), "{head}");
    client
}

/// Status, bytes and flags of the next record.
async fn record(bed: &Bed) -> (u16, u64, u64, String) {
    let record = bed.record().await;
    let flags = record.flags.to_string();
    (
        record.response_code,
        record.bytes_received,
        record.bytes_sent,
        flags,
    )
}

#[tokio::test]
async fn a_record_counts_bytes_and_names_the_side_that_ended_first() {
    // The origin sends 5 bytes, gets 4, and then ends so.
    for reset in [false, true] {
        let origin = raw_origin(move |_, mut raw: Raw| async move {
            raw.head().await.unwrap();
            raw.send(format!("{SWITCH}hello").as_bytes()).await;
            raw.take(4).await.unwrap();
            if reset {
                raw.stream.set_zero_linger().unwrap();
            }
        })
        .await;
        let bed = Bed::new(http_port(HOST, &[origin], None)).await;
        let mut client = switched(&bed).await;
        assert_eq!(client.take(5).await.unwrap(), b"hello");
        client.send(b"ping").await;
        assert!(timeout(PATIENCE, client.rest()).await.unwrap().is_empty());
        drop(client);
        assert_eq!(record(&bed).await, (101, 4, 5, "UC".into()), "{reset}");
    }
    // The client does.
    for reset in [false, true] {
        let (hears, mut said) = mpsc::channel(1);
        let origin = raw_origin(move |_, mut raw: Raw| {
            let hears = hears.clone();
            async move {
                raw.head().await.unwrap();
                raw.send(format!("{SWITCH}hello").as_bytes()).await;
                raw.take(4).await.unwrap();
                hears.send(()).await.unwrap();
                raw.rest().await;
            }
        })
        .await;
        let bed = Bed::new(http_port(HOST, &[origin], None)).await;
        let mut client = switched(&bed).await;
        assert_eq!(client.take(5).await.unwrap(), b"hello");
        client.send(b"ping").await;
        // A reset must not overtake the bytes.
        said.recv().await.unwrap();
        if reset {
            client.stream.set_zero_linger().unwrap();
        }
        drop(client);
        assert_eq!(record(&bed).await, (101, 4, 5, "DC".into()), "{reset}");
    }
}

/// An HTTP/2 origin that takes extended CONNECTs.
async fn h2_origin<F, R>(answer: F) -> SocketAddr
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> R + Clone + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    raw_origin(move |_, raw| {
        let answer = answer.clone();
        async move {
            let mut builder = Builder::new();
            builder.enable_connect_protocol();
            let mut connection = builder.handshake(raw.stream).await.unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(answer(request, respond));
            }
        }
    })
    .await
}

async fn h2_bed(origin: SocketAddr) -> Bed {
    Bed::new(port(UpstreamProtocol::Http2, origin, None)).await
}

fn accept(respond: &mut SendResponse<Bytes>) -> SendStream<Bytes> {
    let response = Response::builder().header("sec-websocket-protocol", "p");
    respond
        .send_response(response.body(()).unwrap(), false)
        .unwrap()
}

#[tokio::test]
async fn a_websocket_to_an_http2_origin_is_an_extended_connect() {
    let origin = h2_origin(|request, mut respond| async move {
        let protocol = request.extensions().get::<Protocol>();
        assert_eq!(protocol.map(Protocol::as_str), Some("websocket"));
        assert_eq!(request.method(), Method::CONNECT);
        assert_eq!(request.uri(), "http://httpbin.org/ws?a=1");
        let headers = request.headers();
        assert_eq!(headers["sec-websocket-version"], "13");
        assert_eq!(headers["x-envoy-attempt-count"], "1");
        for name in ["host", "upgrade", "connection", "content-length"] {
            assert!(!headers.contains_key(name), "{name}");
        }
        let mut stream = accept(&mut respond);
        let mut body = request.into_body();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            write(&mut stream, data, false).await;
        }
        stream.send_data(Bytes::new(), true).unwrap();
    })
    .await;
    let bed = h2_bed(origin).await;
    let mut client = switched(&bed).await;
    client.send(b"ping").await;
    assert_eq!(client.take(4).await.unwrap(), b"ping");
    // More than any window, both ways at once.
    let many = vec![b'x'; 1 << 20];
    let (mut read, mut write) = client.stream.into_split();
    let sent = many.clone();
    let sending = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write
    });
    let mut got = vec![0; many.len()];
    timeout(PATIENCE, read.read_exact(&mut got))
        .await
        .unwrap()
        .unwrap();
    assert!(got == many);
    drop((sending.await.unwrap(), read));
    let bytes = many.len() as u64 + 4;
    assert_eq!(record(&bed).await, (101, bytes, bytes, "DC".into()));
}

#[tokio::test]
async fn an_http2_origin_may_end_reset_or_refuse_a_websocket() {
    let ends = h2_origin(|request, mut respond| async move {
        let mut stream = accept(&mut respond);
        assert_eq!(
            request.into_body().data().await.unwrap().unwrap(),
            &b"ping"[..]
        );
        write(&mut stream, Bytes::from_static(b"bye"), true).await;
    })
    .await;
    let resets = h2_origin(|request, mut respond| async move {
        let mut stream = accept(&mut respond);
        assert_eq!(
            request.into_body().data().await.unwrap().unwrap(),
            &b"ping"[..]
        );
        stream.send_reset(Reason::INTERNAL_ERROR);
    })
    .await;
    for (origin, rest) in [(ends, &b"bye"[..]), (resets, b"")] {
        let bed = h2_bed(origin).await;
        let mut client = switched(&bed).await;
        client.send(b"ping").await;
        assert_eq!(timeout(PATIENCE, client.rest()).await.unwrap(), rest);
        drop(client);
        let sent = rest.len() as u64;
        assert_eq!(record(&bed).await, (101, 4, sent, "UC".into()));
    }

    let refuses = h2_origin(|request, mut respond| async move {
        let response = Response::builder().status(403).body(()).unwrap();
        let mut stream = respond.send_response(response, false).unwrap();
        write(&mut stream, Bytes::from_static(b"no"), true).await;
        // The proxy gives the request up.
        let _ = read(&mut request.into_body()).await;
    })
    .await;
    let bed = h2_bed(refuses).await;
    let reply = bed.client().await.ask(&upgrade()).await;
    assert_eq!((reply.status(), reply.text()), (403, "no"));
    assert_eq!(reply.header("connection"), Some("close"));
    assert_eq!(record(&bed).await, (403, 0, 2, "-".into()));
}

#[tokio::test]
async fn an_origin_that_takes_no_extended_connect_gets_one_and_resets_it() {
    let origin = crate::streams::origin(|_, _| async { panic!("the library refuses it") }).await;
    let bed = h2_bed(origin).await;
    let reply = bed.client().await.ask(&upgrade()).await;
    assert_eq!(reply.status(), 503, "{}", reply.text());
    assert_eq!(bed.record().await.flags.to_string(), "UR");
}

#[tokio::test]
async fn a_response_that_does_not_switch_has_no_body_unless_it_is_an_error() {
    for (status, body) in [
        ("200 OK", ""),
        ("201 Created", ""),
        ("302 Found", ""),
        ("404 Not Found", "no websocket"),
        ("503 Service Unavailable", "no websocket"),
    ] {
        let origin = raw_origin(move |_, mut raw: Raw| async move {
            raw.head().await.unwrap();
            let head = format!("HTTP/1.1 {status}\r\nlocation: /x\r\ncontent-length: 12\r\n\r\n");
            raw.send(format!("{head}no websocket").as_bytes()).await;
            raw.rest().await;
        })
        .await;
        let bed = Bed::new(http_port(HOST, &[origin], None)).await;
        let mut client = bed.client().await;
        let response = client.ask(&upgrade()).await;
        assert!(response.head.starts_with(&format!("HTTP/1.1 {status}\r\n")));
        assert_eq!(response.text(), body, "{status}");
        let length = body.len().to_string();
        assert_eq!(
            response.header("content-length"),
            Some(&*length),
            "{status}"
        );
        assert_eq!(response.header("location"), Some("/x"), "{status}");
        assert_eq!(response.header("connection"), Some("close"), "{status}");
        assert!(client.rest().await.is_empty(), "{status}");
        let record = bed.record().await;
        let details = if body.is_empty() {
            "websocket_handshake_unsuccessful"
        } else {
            "via_upstream"
        };
        assert_eq!(record.details, details, "{status}");
        assert_eq!(record.bytes_sent, body.len() as u64, "{status}");
    }
}

#[tokio::test]
async fn a_switch_that_frames_a_body_is_a_fault_of_the_origin() {
    for field in ["transfer-encoding: chunked", "content-length: 5"] {
        let origin = raw_origin(move |_, mut raw: Raw| async move {
            raw.head().await.unwrap();
            let head = SWITCH.replace("upgrade: ", &format!("{field}\r\nupgrade: "));
            raw.send(format!("{head}hello").as_bytes()).await;
            raw.rest().await;
        })
        .await;
        let bed = Bed::new(http_port(HOST, &[origin], None)).await;
        let response = bed.client().await.ask(&upgrade()).await;
        assert_eq!(response.status(), 502, "{field}");
        assert_eq!(bed.record().await.flags.to_string(), "UPE", "{field}");
    }
}

#[tokio::test]
async fn chunks_behind_the_request_are_bytes_of_the_websocket() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        let head = raw.head().await.unwrap().to_lowercase();
        assert!(!head.contains("transfer-encoding"), "{head}");
        raw.send(SWITCH.as_bytes()).await;
        let seen = raw.take(10).await.unwrap();
        raw.send(&seen).await;
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    let chunked = "Transfer-Encoding: chunked\r\nUpgrade: ";
    let request = upgrade().replace("Upgrade: ", chunked);
    client
        .send(format!("{request}5\r\nhello\r\n").as_bytes())
        .await;
    let head = client.head().await.unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(client.take(10).await.unwrap(), b"5\r\nhello\r\n");
}

/// The bytes behind a request whose upgrade is refused are never read as a request.
#[tokio::test]
async fn chunks_behind_a_refused_websocket_go_nowhere() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        raw.head().await.unwrap();
        raw.send(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            .await;
        let seen = String::from_utf8(raw.rest().await).unwrap();
        assert_eq!(seen, "", "the origin gets nothing else");
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    let chunked = "Transfer-Encoding: chunked\r\nUpgrade: ";
    let request = upgrade().replace("Upgrade: ", chunked);
    let behind = format!("GET /2 HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let response = client.ask(&format!("{request}0\r\n\r\n{behind}")).await;
    assert_eq!(response.status(), 404);
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn a_websocket_may_close_its_connection() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        let head = raw.head().await.unwrap().to_lowercase();
        assert!(head.contains("connection: close, upgrade\r\n"), "{head}");
        raw.send(SWITCH.as_bytes()).await;
        let seen = raw.take(4).await.unwrap();
        raw.send(&seen).await;
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    let request = upgrade().replace("Connection: Upgrade", "Connection: close, upgrade");
    client.send(request.as_bytes()).await;
    let head = client.head().await.unwrap();
    assert!(head.contains("connection: upgrade\r\n"), "{head}");
    assert!(!head.contains("close"), "{head}");
    client.send(b"ping").await;
    assert_eq!(client.take(4).await.unwrap(), b"ping");
}
