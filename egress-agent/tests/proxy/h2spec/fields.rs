//! Rules about fields and messages (RFC 9113 §8).

use super::Want::{Malformed, Status, Stream};
use super::bytes::PROTOCOL;
use super::{Case, case};
use crate::frames::*;
use crate::support::HOST;

/// The pseudo-header fields of a request.
const PSEUDO: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", HOST),
];

/// A field that is in no table (RFC 7541 §6.2.2).
fn literal((name, value): (&str, &str)) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).unwrap());
        bytes.extend(text.as_bytes());
    }
    bytes
}

fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|field| literal(*field)).collect()
}

/// A request with these fields.
fn head(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

/// A request with fields behind the pseudo-header fields.
fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    head(&[&PSEUDO[..], fields].concat())
}

/// A request whose pseudo-header field has another value, or none.
fn but(name: &str, value: Option<&str>) -> Vec<u8> {
    let fields = PSEUDO.iter().filter_map(|field| match value {
        Some(value) if field.0 == name => Some((field.0, value)),
        None if field.0 == name => None,
        _ => Some(*field),
    });
    head(&fields.collect::<Vec<_>>())
}

/// A request with a body, and the frames behind its head.
fn post(fields: &[(&str, &str)], rest: &[Vec<u8>]) -> Vec<u8> {
    let pseudo = [&[(":method", "POST")], &PSEUDO[1..]].concat();
    let head = block(&[&pseudo[..], fields].concat());
    [frame(HEADERS, END_HEADERS, 1, &head), rest.concat()].concat()
}

fn trailers(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(fields))
}

pub fn cases() -> Vec<Case> {
    [messages(), names(), pseudo(), lengths()]
        .into_iter()
        .flatten()
        .collect()
}

fn messages() -> Vec<Case> {
    let data = || frame(DATA, END_STREAM, 1, b"x");
    vec![
        case("RFC 9113 8.1", "GET", with(&[]), Status(200)),
        case(
            "RFC 9113 8.1",
            "HEAD",
            but(":method", Some("HEAD")),
            Status(200),
        ),
        case("RFC 9113 8.1", "POST", post(&[], &[data()]), Status(200)),
        case(
            "RFC 9113 8.1",
            "POST with trailers",
            post(
                &[("trailer", "x-sum")],
                &[frame(DATA, 0, 1, b"x"), trailers(&[("x-sum", "1")])],
            ),
            Status(200),
        ),
        case(
            "RFC 9113 8.1",
            "trailers that do not end the stream",
            post(
                &[],
                &[
                    frame(DATA, 0, 1, b"x"),
                    frame(HEADERS, END_HEADERS, 1, &block(&[("x-sum", "1")])),
                ],
            ),
            Stream(&[PROTOCOL]),
        ),
    ]
}

fn names() -> Vec<Case> {
    let malformed = |section, name, field| case(section, name, with(&[field]), Malformed);
    vec![
        malformed("RFC 9113 8.2.1", "a name in upper case", ("X-TEST", "ok")),
        malformed("RFC 9113 8.2.1", "an empty name", ("", "ok")),
        malformed("RFC 9113 8.2.1", "a name with a space", ("x test", "ok")),
        malformed("RFC 9113 8.2.1", "a name with a colon", ("x:test", "ok")),
        malformed(
            "RFC 9113 8.2.1",
            "a name with a byte over 127",
            ("x-\u{e9}", "ok"),
        ),
        malformed("RFC 9113 8.2.1", "a value with NUL", ("x-test", "a\0b")),
        malformed("RFC 9113 8.2.1", "a value with CR", ("x-test", "a\rb")),
        malformed("RFC 9113 8.2.1", "a value with LF", ("x-test", "a\nb")),
        malformed("RFC 9113 8.2.2", "connection", ("connection", "keep-alive")),
        malformed("RFC 9113 8.2.2", "keep-alive", ("keep-alive", "timeout=5")),
        malformed(
            "RFC 9113 8.2.2",
            "proxy-connection",
            ("proxy-connection", "keep-alive"),
        ),
        malformed(
            "RFC 9113 8.2.2",
            "transfer-encoding",
            ("transfer-encoding", "chunked"),
        ),
        malformed("RFC 9113 8.2.2", "upgrade", ("upgrade", "websocket")),
        malformed(
            "RFC 9113 8.2.2",
            "te with anything but trailers",
            ("te", "trailers, deflate"),
        ),
        case(
            "RFC 9113 8.2.2",
            "te: trailers",
            with(&[("te", "trailers")]),
            Status(200),
        ),
        case(
            "RFC 9113 8.2.3",
            "cookies in several fields",
            with(&[("cookie", "a=1"), ("cookie", "b=2")]),
            Status(200),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "one table")]
fn pseudo() -> Vec<Case> {
    let twice =
        |name: &'static str, value: &'static str| head(&[&[(name, value)], &PSEUDO[..]].concat());
    let section = "RFC 9113 8.3";
    vec![
        case(
            section,
            "an unknown pseudo-header field",
            with(&[(":test", "ok")]),
            Malformed,
        ),
        case(
            section,
            "one of a response",
            with(&[(":status", "200")]),
            Malformed,
        ),
        case(
            section,
            "one behind another field",
            head(&[PSEUDO[0], PSEUDO[1], PSEUDO[3], ("x-test", "ok"), PSEUDO[2]]),
            Malformed,
        ),
        case(
            section,
            "one in trailers",
            post(
                &[],
                &[frame(DATA, 0, 1, b"x"), trailers(&[(":method", "POST")])],
            ),
            Stream(&[PROTOCOL]),
        ),
        case(
            "RFC 9113 8.3.1",
            "an empty :path",
            but(":path", Some("")),
            Malformed,
        ),
        case("RFC 9113 8.3.1", "no :path", but(":path", None), Malformed),
        case(
            "RFC 9113 8.3.1",
            "no :method",
            but(":method", None),
            Malformed,
        ),
        case(
            "RFC 9113 8.3.1",
            "no :scheme",
            but(":scheme", None),
            Malformed,
        ),
        case(
            "RFC 9113 8.3.1",
            "neither :authority nor Host",
            but(":authority", None),
            Malformed,
        ),
        case(
            "RFC 9113 8.3.1",
            ":method twice",
            twice(":method", "GET"),
            Malformed,
        ),
        case(
            "RFC 9113 8.3.1",
            ":scheme twice",
            twice(":scheme", "http"),
            Malformed,
        ),
        case(
            "RFC 9113 8.3.1",
            ":path twice",
            twice(":path", "/"),
            Malformed,
        ),
        case(
            "RFC 9113 8.3.1",
            ":authority twice",
            twice(":authority", HOST),
            Malformed,
        ),
        case(
            "RFC 9113 8.3.1",
            "a :path that is no path",
            but(":path", Some("a")),
            Malformed,
        ),
        case(
            "RFC 9113 8.3.1",
            ":authority with user information",
            but(":authority", Some("user@a.example")),
            Malformed,
        ),
        case(
            "RFC 9113 8.5",
            "CONNECT with :path and :scheme",
            but(":method", Some("CONNECT")),
            Malformed,
        ),
        case(
            "RFC 8441 3",
            ":protocol that was not offered",
            head(
                &[
                    &[(":protocol", "websocket")],
                    &[(":method", "CONNECT")],
                    &PSEUDO[1..],
                ]
                .concat(),
            ),
            Malformed,
        ),
    ]
}

fn lengths() -> Vec<Case> {
    let data = |flags, bytes: &[u8]| frame(DATA, flags, 1, bytes);
    vec![
        case(
            "RFC 9113 8.1.1",
            "more bytes than content-length says",
            post(&[("content-length", "1")], &[data(END_STREAM, b"test")]),
            Malformed,
        ),
        case(
            "RFC 9113 8.1.1",
            "fewer bytes than content-length says",
            post(&[("content-length", "9")], &[data(END_STREAM, b"test")]),
            Malformed,
        ),
        case(
            "RFC 9113 8.1.1",
            "more bytes in several frames",
            post(
                &[("content-length", "5")],
                &[data(0, b"test"), data(END_STREAM, b"test")],
            ),
            Malformed,
        ),
        case(
            "RFC 9113 8.1.1",
            "no body where content-length says one",
            with(&[("content-length", "4")]),
            Malformed,
        ),
        case(
            "RFC 9113 8.1.1",
            "a content-length that is not a number",
            post(&[("content-length", "x")], &[data(END_STREAM, b"")]),
            Malformed,
        ),
        case(
            "RFC 9113 8.1.1",
            "two content-lengths that differ",
            post(
                &[("content-length", "4"), ("content-length", "5")],
                &[data(END_STREAM, b"test")],
            ),
            Malformed,
        ),
    ]
}
