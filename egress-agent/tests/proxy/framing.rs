//! Messages that two readers could frame or address differently: denied on the way up, and a fault of
//! the origin on the way down.

use crate::raw::*;
use crate::support::*;
use egress_agent::proxy::DenialReason;
use tokio::sync::mpsc::unbounded_channel;

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "one table")]
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
            501,
        ),
        (
            "TE with more behind",
            "POST / HTTP/1.1\r\nHost: httpbin.org\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
            501,
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
            "TE gzip, chunked",
            "POST / HTTP/1.1\r\nHost: httpbin.org\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
        ),
        (
            "TE twice",
            "POST / HTTP/1.1\r\nHost: httpbin.org\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            501,
        ),
        (
            "two equal lengths",
            "POST / HTTP/1.1\r\nHost: httpbin.org\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
            400,
        ),
        (
            "unknown method",
            "FOO / HTTP/1.1\r\nHost: httpbin.org\r\n\r\n",
            400,
        ),
        (
            "target of another scheme",
            "GET ftp://httpbin.org/ HTTP/1.1\r\nHost: httpbin.org\r\n\r\n",
            400,
        ),
        (
            "slash in Host",
            "GET / HTTP/1.1\r\nHost: httpbin.org/.evil.example\r\n\r\n",
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
        assert_eq!(reply.header("server"), Some("envoy"), "{what}");
        if !reply.body.is_empty() {
            assert_eq!(reply.header("content-type"), Some("text/plain"), "{what}");
        }
        if status != 502 {
            assert_eq!(reply.header("connection"), Some("close"), "{what}");
            assert!(client.rest().await.is_empty(), "{what}");
        }
        bed.denial().await;
        assert_eq!(bed.record().await.response_code, status, "{what}");
    }
}

#[tokio::test]
async fn a_head_beyond_the_limits_is_431() {
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    let with = |fields: String| format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n");
    let large = |size: usize| with(format!("X-Large: {}\r\n", "a".repeat(size)));
    let many = |count: usize| with("a: b\r\n".repeat(count));
    for fine in [large(50_000), many(99)] {
        assert_eq!(bed.client().await.ask(&fine).await.status(), 200);
        bed.record().await;
    }
    for (what, request) in [("size", large(70_000)), ("number", many(100))] {
        let mut client = bed.client().await;
        let reply = client.ask(&request).await;
        let text = "Request Header Fields Too Large";
        assert_eq!((reply.status(), reply.text()), (431, text), "{what}");
        assert_eq!(reply.header("server"), Some("envoy"), "{what}");
        assert!(client.rest().await.is_empty(), "{what}");
        bed.denial().await;
        let record = bed.record().await;
        assert_eq!(
            (record.response_code, record.flags.to_string().as_str()),
            (431, "DPE"),
            "{what}"
        );
    }
}

/// The origin gets the beginning of such a body, but neither its end nor another request on that
/// connection.
#[tokio::test]
async fn a_broken_chunk_is_400_and_its_upstream_connection_is_not_used_again() {
    for (what, broken) in [
        ("size", "xyz\r\nabc\r\n"),
        ("no size", "\r\nabc\r\n"),
        ("prefix", "0x3\r\nabc\r\n"),
        ("end", "3\r\nabcX\r\n"),
        ("line feeds", "3\nabc\n0\n\n"),
        ("trailer", "0\r\nx\n\r\n"),
        ("overflow", "fffffffffffffffff\r\n"),
    ] {
        let (ends, mut seen) = unbounded_channel();
        let origin = raw_origin(move |number, mut raw: Raw| {
            let ends = ends.clone();
            async move {
                raw.head().await;
                let rest = String::from_utf8(raw.rest().await).unwrap();
                ends.send((number, rest)).unwrap();
            }
        })
        .await;
        let bed = Bed::new(http_port(HOST, &[origin], None)).await;
        let mut client = bed.client().await;
        let head = format!("POST / HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n");
        client
            .send(format!("{head}5\r\nbegin\r\n").as_bytes())
            .await;
        client.send(broken.as_bytes()).await;
        client.send(get(HOST, "/next").as_bytes()).await;
        let reply = client.message().await.unwrap();
        assert_eq!(
            (reply.status(), reply.text()),
            (400, "Bad Request"),
            "{what}"
        );
        assert_eq!(reply.header("connection"), Some("close"), "{what}");
        assert!(client.rest().await.is_empty(), "{what}");
        let record = bed.record().await;
        assert_eq!(record.flags.to_string(), "DPE", "{what}");
        if record.attempts > 0 {
            let (number, rest) = seen.recv().await.unwrap();
            assert_eq!(number, 0, "{what}");
            assert!(
                !rest.contains("0\r\n\r\n") && !rest.contains("GET"),
                "{what}: {rest}"
            );
        }
    }
}

#[tokio::test]
async fn a_request_hidden_in_or_behind_another_is_judged_or_is_a_body() {
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    let hidden = get("evil.example", "/hidden");
    let length = hidden.len();
    let chunked = format!("{length:x};x=y\r\n");
    for (what, head, body, behind) in [
        (
            "as a body",
            format!("Content-Length: {length}\r\n"),
            hidden.clone(),
            "",
        ),
        (
            "as a chunk",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            format!("{chunked}{hidden}\r\n0\r\n\r\n"),
            "",
        ),
        (
            "behind no body",
            "Content-Length: 0\r\n".to_owned(),
            String::new(),
            hidden.as_str(),
        ),
        (
            "behind the last chunk",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            "1\r\na\r\n0\r\nx: y\r\n\r\n".to_owned(),
            &hidden,
        ),
        (
            "behind a body",
            "Content-Length: 3\r\n".to_owned(),
            "abc".to_owned(),
            &hidden,
        ),
    ] {
        let request = format!(
            "POST /first HTTP/1.1\r\nHost: {HOST}\r\n{head}\r\n{body}{behind}{}",
            get(HOST, "/last")
        );
        // In one piece, and with each byte by itself.
        for size in [request.len(), 1] {
            let mut client = bed.client().await;
            for part in request.as_bytes().chunks(size) {
                client.send(part).await;
            }
            let first = client.message().await.unwrap();
            assert!(
                first.text().starts_with("POST /first "),
                "{what}: {first:?}"
            );
            if !behind.is_empty() {
                assert_eq!(client.message().await.unwrap().status(), 502, "{what}");
                assert_eq!(bed.denial().await, DenialReason::UnlistedHost, "{what}");
            }
            let last = client.message().await.unwrap();
            assert!(last.text().starts_with("GET /last "), "{what}: {last:?}");
        }
    }
}

#[tokio::test]
async fn a_response_that_two_readers_could_frame_differently_is_502() {
    let text =
        "upstream connect error or disconnect/reset before headers. reset reason: protocol error";
    for reply in [
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: 3, 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length: -3\r\n\r\nabc",
        "HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\ncontent-length: 3\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 3\r\na: b\0c\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ncontent-length : 3\r\n\r\nabc",
    ] {
        let bed = Bed::new(http_port(HOST, &[fixed_origin(reply).await], None)).await;
        let mut client = bed.client().await;
        client.send(get(HOST, "/").as_bytes()).await;
        let mut answer = client.message().await.unwrap();
        if answer.status() == 103 {
            answer = client.message().await.unwrap();
        }
        assert_eq!((answer.status(), answer.text()), (502, text), "{reply:?}");
        assert_eq!(bed.record().await.flags.to_string(), "UPE", "{reply:?}");
    }
}

#[tokio::test]
async fn a_response_is_recorded_as_it_ended() {
    for (reply, flags) in [
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
            "-",
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", "-"),
        ("HTTP/1.1 204 No Content\r\n\r\n", "-"),
        (
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n\r\n",
            "-",
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n",
            "UPE",
        ),
    ] {
        for ask in ["", "TE: trailers\r\n"] {
            let bed = Bed::new(http_port(HOST, &[fixed_origin(reply).await], None)).await;
            let mut client = bed.client().await;
            let request =
                format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n{ask}\r\n");
            client.send(request.as_bytes()).await;
            let answer = String::from_utf8(client.rest().await).unwrap();
            let trailers = answer.contains("x-sum: 1");
            assert_eq!(
                trailers,
                reply.contains("x-sum: 1") && !ask.is_empty(),
                "{answer}"
            );
            assert_eq!(
                bed.record().await.flags.to_string(),
                flags,
                "{reply:?} {ask:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_reply_to_an_upload_that_goes_on_is_not_lost_in_a_reset() {
    let early = "HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\n\r\nno";
    let origin = raw_origin(move |_, mut raw: Raw| async move {
        raw.head().await;
        raw.send(early.as_bytes()).await;
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    for framing in ["Content-Length: 8000000", "Transfer-Encoding: gzip"] {
        let mut client = bed.client().await;
        client
            .send(format!("POST / HTTP/1.1\r\nHost: {HOST}\r\n{framing}\r\n\r\n").as_bytes())
            .await;
        client.send(&vec![b'x'; 400_000]).await;
        let reply = client.message().await.unwrap();
        let expected = if framing.ends_with("gzip") { 501 } else { 413 };
        assert_eq!(reply.status(), expected, "{framing}");
        assert_eq!(reply.header("connection"), Some("close"), "{framing}");
    }
}
