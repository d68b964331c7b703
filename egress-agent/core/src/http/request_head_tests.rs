//! Request heads by table. The outcomes are Envoy 1.40's, unless a row says otherwise.

use super::*;
use crate::http::MAX_HEAD;
use crate::http::head_reader::{HeadOutcome, HeadReader};
use crate::http::local_reply::LocalReply;

/// Reads the head in one piece and byte by byte.
fn read(bytes: &[u8]) -> HeadOutcome {
    let mut whole = HeadReader::new(MAX_HEAD);
    whole.push(bytes);
    let outcome = whole.next_head();
    let mut split = HeadReader::new(MAX_HEAD);
    let by_byte = bytes
        .iter()
        .map(|byte| {
            split.push(&[*byte]);
            split.next_head()
        })
        .find(|outcome| *outcome != HeadOutcome::NeedMore)
        .unwrap_or(HeadOutcome::NeedMore);
    // Byte by byte, one error may be found before the bytes of a second one come.
    match (&outcome, &by_byte) {
        (HeadOutcome::Rejected(_), HeadOutcome::Rejected(_)) => {}
        _ => assert_eq!(outcome, by_byte, "{:?}", String::from_utf8_lossy(bytes)),
    }
    outcome
}

pub(super) fn head(text: &str) -> Head {
    match read(text.as_bytes()) {
        HeadOutcome::Head(head) => head,
        other => panic!("{text:?}: {other:?}"),
    }
}

pub(super) fn rejected(text: &str) -> HeadError {
    match read(text.as_bytes()) {
        HeadOutcome::Rejected(error) => error,
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn a_head_is_written_down_again_in_one_form() {
    for (raw, canonical) in [
        (
            "GET /a/../%62?c HTTP/1.1\r\nHost: a.example\r\nX:1\r\n\r\n",
            "GET /b?c HTTP/1.1\r\nHost: a.example\r\nX: 1\r\n\r\n",
        ),
        ("\r\n\nGET http://a.example:80\\ HTTP/1.1\r\n\r\n", ""),
        (
            "\r\n\r\nGET http://A.example:80?x HTTP/1.1\nhost: evil.example\nHost: b\n\n",
            "GET /?x HTTP/1.1\r\nhost: A.example:80\r\n\r\n",
        ),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\ncontent-length: 3\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 3\r\n\r\n",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nempty:\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: a\r\nempty: \r\n\r\n",
        ),
    ] {
        if canonical.is_empty() {
            assert_eq!(rejected(raw), HeadError::Target(TargetError::Url), "{raw}");
            continue;
        }
        let found = head(raw);
        assert_eq!(String::from_utf8_lossy(&found.bytes), canonical, "{raw}");
        assert_eq!(head(canonical).bytes, found.bytes, "again: {raw}");
    }
}

#[test]
fn a_request_names_one_host_and_frames_its_body_once() {
    let found = |fields: &str| head(&format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n"));
    for (fields, authority) in [
        ("Host:a.example", "a.example"),
        ("Host: \t a.example \t", "a.example"),
        ("Host: A.example.:81", "A.example.:81"),
        ("Host: a\r\nHOST: b", "a,b"),
        ("Host:", ""),
    ] {
        assert_eq!(found(fields).authority, authority, "{fields}");
    }
    for (fields, framing) in [
        ("Host: a", Framing::Length(0)),
        ("Host: a\r\nContent-Length: 003 ", Framing::Length(3)),
        ("Host: a\r\ntransfer-encoding: \tChunked ", Framing::Chunked),
        ("Host: a\r\ntransfer_encoding: chunked", Framing::Length(0)),
    ] {
        assert_eq!(found(fields).framing, framing, "{fields}");
    }
    assert_eq!(
        found("Host: a\r\nexpect: 100-Continue").expect.as_deref(),
        Some(&b"100-Continue"[..])
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "one table")]
fn a_head_that_two_readers_could_understand_differently_is_rejected_with_envoys_status() {
    use HeadError::{
        BadHost, Connect, ContentLength, FramedTwice, Method, NoHost, TransferEncoding, Version,
    };
    let form = || HeadError::Target(TargetError::Form);
    let url = || HeadError::Target(TargetError::Url);
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
    let get = |line: &str| format!("{line}\r\nHost: a\r\n\r\n");
    for (raw, error, status) in [
        (post("Transfer-Encoding: xchunked"), TransferEncoding, 501),
        (
            post("Transfer-Encoding: gzip, chunked"),
            TransferEncoding,
            501,
        ),
        (
            post("Transfer-Encoding: chunked, chunked"),
            TransferEncoding,
            501,
        ),
        (
            post("Transfer-Encoding: chunked;q=1"),
            TransferEncoding,
            501,
        ),
        (post("Transfer-Encoding: identity"), TransferEncoding, 501),
        (post("Transfer-Encoding:"), TransferEncoding, 501),
        (
            post("Transfer-Encoding: chunked\r\ntransfer-encoding: chunked"),
            TransferEncoding,
            501,
        ),
        (
            post("Transfer-Encoding: gzip\r\ntransfer-encoding: chunked"),
            TransferEncoding,
            501,
        ),
        (
            post("Content-Length: 3\r\nTransfer-Encoding: chunked"),
            FramedTwice,
            400,
        ),
        (
            post("Transfer-Encoding: gzip\r\nContent-Length: 0"),
            FramedTwice,
            400,
        ),
        (post("Content-Length: +3"), ContentLength, 400),
        (post("Content-Length: -3"), ContentLength, 400),
        (post("Content-Length: 3,3"), ContentLength, 400),
        (post("Content-Length: 0x3"), ContentLength, 400),
        (post("Content-Length:"), ContentLength, 400),
        (
            post("Content-Length: 99999999999999999999"),
            ContentLength,
            400,
        ),
        (
            post("Content-Length: 18446744073709551615"),
            ContentLength,
            400,
        ),
        (
            post("Content-Length: 3\r\nContent-Length: 3"),
            ContentLength,
            400,
        ),
        (get("get / HTTP/1.1"), Method, 400),
        (get("FOO / HTTP/1.1"), Method, 400),
        (get("QUERY / HTTP/1.1"), HeadError::QueryType, 400),
        (
            get("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1"),
            Method,
            400,
        ),
        (get("GET / HTTP/1.0"), Version, 426),
        (get("GET / HTTP/1.2"), Version, 426),
        (get("GET / HTTP/2.0"), Version, 426),
        ("GET /\r\n\r\n".to_owned(), Version, 426),
        (get("GET * HTTP/1.1"), TargetError::Asterisk.into(), 400),
        (get("GET x HTTP/1.1"), form(), 400),
        (
            get("GET ftp://a/ HTTP/1.1"),
            TargetError::Scheme.into(),
            400,
        ),
        (get("CONNECT / HTTP/1.1"), url(), 400),
        (get("GET http:///x HTTP/1.1"), url(), 400),
        (get("GET http://a:/x HTTP/1.1"), url(), 400),
        (get("GET http://a:?x HTTP/1.1"), url(), 400),
        (post("Connection: host"), NoHost, 400),
        (post("Connection: close, HOST"), NoHost, 400),
        (get("CONNECT a.example:443 HTTP/1.1"), Connect, 404),
        (
            get("GET /%00 HTTP/1.1"),
            HeadError::Target(TargetError::Nul),
            400,
        ),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), NoHost, 400),
        (
            "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(),
            BadHost,
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(),
            BadHost,
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a#\r\n\r\n".to_owned(),
            BadHost,
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n".to_owned(),
            BadHost,
            400,
        ),
        (
            "GET / HTTP/1.1\r\nHost: b\u{fc}\r\n\r\n".to_owned(),
            BadHost,
            400,
        ),
        (
            post(&"a: b\r\n".repeat(100)),
            HeadError::TooManyHeaders,
            431,
        ),
        (
            post(&format!("a: {}", "b".repeat(MAX_HEAD))),
            HeadError::TooLarge,
            431,
        ),
        (
            get(&format!("GET /{} HTTP/1.1", "b".repeat(MAX_HEAD))),
            HeadError::TooLarge,
            431,
        ),
    ] {
        let shown = &raw[..raw.len().min(200)];
        assert_eq!(rejected(&raw), error, "{shown:?}");
        assert_eq!(error.reply().status, status, "{shown:?}");
    }
}

#[test]
fn what_is_no_head_is_malformed() {
    for raw in [
        "\0\0\0\0\r\n\r\n",
        "hello\r\n\r\n",
        " GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.10\r\nHost: a\r\n\r\n",
        "GET / HTTP/11\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\n Host: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA(: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nAb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n:path: /b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\0c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\u{1}c\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\u{7f}c\r\n\r\n",
        // Envoy drops the CR and joins folded lines. RFC 9112 §2.2 and §5.2 allow rejecting both.
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\rc\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n",
    ] {
        assert!(
            matches!(rejected(raw), HeadError::Malformed(_)),
            "{raw:?}: {:?}",
            rejected(raw)
        );
        let (reply, malformed) = (rejected(raw).reply(), LocalReply::malformed());
        // The details name the part that is malformed.
        let seen = |reply: &LocalReply| (reply.status, reply.body.clone(), reply.flags);
        assert_eq!(seen(&reply), seen(&malformed));
        assert!(reply.details.starts_with("http1."), "{}", reply.details);
    }
}

#[test]
fn http_1_0_is_read_where_it_is_accepted_and_must_name_a_host() {
    let read = |text: &str| {
        let mut reader = HeadReader::new(MAX_HEAD).accepting_http10();
        reader.push(text.as_bytes());
        reader.next_head()
    };
    let HeadOutcome::Head(head) =
        read("GET /a/../b HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\n\r\n")
    else {
        panic!();
    };
    assert_eq!(head.bytes, b"GET /b HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!((head.http10, head.expect), (true, None));
    for (text, error) in [
        ("GET / HTTP/1.0\r\n\r\n", HeadError::NoHost),
        (
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            HeadError::TransferEncoding,
        ),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", HeadError::Version),
    ] {
        assert_eq!(read(text), HeadOutcome::Rejected(error), "{text:?}");
    }
    assert!(matches!(
        read("GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        HeadOutcome::Head(Head { http10: false, .. })
    ));
}

#[test]
fn heads_follow_each_other_and_bytes_of_a_body_are_not_among_them() {
    let mut reader = HeadReader::new(MAX_HEAD);
    reader.push(b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /2 HT");
    let HeadOutcome::Head(first) = reader.next_head() else {
        panic!();
    };
    assert_eq!(first.framing, Framing::Length(3));
    assert_eq!(reader.take(3), b"abc");
    assert_eq!(reader.next_head(), HeadOutcome::NeedMore);
    assert_eq!(reader.pending(), b"GET /2 HT");
    reader.push(b"TP/1.1\r\nHost: b\r\n\r\n");
    let HeadOutcome::Head(second) = reader.next_head() else {
        panic!();
    };
    assert_eq!(second.authority, "b");
    reader.push(b"def");
    reader.push_back(b"abc");
    assert_eq!(reader.pending(), b"abcdef");
}

#[test]
fn an_endless_head_is_rejected_at_the_limit_and_empty_lines_take_no_room() {
    let mut reader = HeadReader::new(MAX_HEAD);
    for _ in 0..MAX_HEAD {
        reader.push(b"\r\n");
        assert_eq!(reader.next_head(), HeadOutcome::NeedMore);
    }
    assert!(reader.pending().len() <= 1);
    reader.push(b"GET / HTTP/1.1\r\nA: ");
    let rejected = (0..MAX_HEAD).find_map(|_| {
        reader.push(b"b");
        match reader.next_head() {
            HeadOutcome::Rejected(error) => Some(error),
            HeadOutcome::NeedMore | HeadOutcome::Head(_) => None,
        }
    });
    assert_eq!(rejected, Some(HeadError::TooLarge));
}
