//! Targets and websockets: what of a head the HTTP library gets, and the details of rejected ones.

use super::tests::{head, rejected};
use super::*;

#[test]
fn the_details_of_a_rejected_target_are_envoys() {
    let get = |target: &str| rejected(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
    for (error, details) in [
        (get("http:///x"), "http1.invalid_url"),
        (get("http://a:/x"), "http1.invalid_url"),
        (get("ftp://a/x"), "http1.invalid_scheme"),
        (get("x"), "http1.codec_error"),
        (get("/a\u{7f}"), "http1.invalid_characters"),
        (
            rejected("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n"),
            "http1.invalid_url",
        ),
    ] {
        assert_eq!(error.reply().details, details, "{error:?}");
    }
}

#[test]
fn an_absolute_target_needs_no_host() {
    let found = head("GET http://a.example/x HTTP/1.1\r\na: b\r\n\r\n");
    assert_eq!(found.authority, "a.example");
    let canonical = "GET /x HTTP/1.1\r\nhost: a.example\r\na: b\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&found.bytes), canonical);
    // It replaces the one that `connection` names.
    let named = "GET http://a.example/x HTTP/1.1\r\nHost: b\r\nConnection: host\r\n\r\n";
    assert_eq!(head(named).authority, "a.example");
}

#[test]
fn a_websocket_has_no_body_and_its_connection_is_not_closed() {
    let of = |fields: &str| head(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n"));
    let websocket = "Upgrade: WebSocket\r\nConnection: Upgrade";
    let found = of(&format!("{websocket}\r\nTransfer-Encoding: chunked"));
    assert_eq!(found.framing, Framing::Length(0));
    let canonical = format!("GET / HTTP/1.1\r\nHost: a\r\n{websocket}\r\n\r\n");
    assert_eq!(String::from_utf8_lossy(&found.bytes), canonical);
    let found = of("Upgrade: websocket\r\nConnection: close\r\nConnection: Upgrade");
    assert_eq!(found.connection.as_deref(), Some(&b"close,Upgrade"[..]));
    let canonical =
        "GET / HTTP/1.1\r\nconnection: upgrade\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(String::from_utf8_lossy(&found.bytes), canonical);
    assert_eq!(
        of("Upgrade: websocket\r\nConnection: upgrade, host").authority,
        "a"
    );
    // The same is a websocket here and behind the HTTP library.
    let found =
        of("Upgrade: websocket\r\nConnection: upgrade, \u{fc}\r\nTransfer-Encoding: chunked");
    assert_eq!(found.framing, Framing::Length(0));
    // What is no websocket keeps its framing and its connection's end.
    for fields in [
        "Upgrade: h2c\r\nConnection: close, upgrade",
        "Upgrade: websocket, h2c\r\nConnection: close, upgrade",
        "Upgrade: \r\nConnection: close, upgrade",
        "Upgrade: websocket, \u{fc}\r\nConnection: close, upgrade",
        "Upgrade: websocket\r\nConnection: close",
    ] {
        let found = of(&format!("{fields}\r\nTransfer-Encoding: chunked"));
        assert_eq!(
            (found.framing, found.connection),
            (Framing::Chunked, None),
            "{fields}"
        );
        let text = String::from_utf8_lossy(&found.bytes).to_lowercase();
        assert!(text.contains("chunked") && text.contains("close"), "{text}");
    }
}
