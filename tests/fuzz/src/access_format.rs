//! A format of the access log and values: no panic, one line, and JSON that is JSON.

use egress_core::access_log::{AccessFormat, AskedFor, Entry, escape};
use egress_core::http::response_flags::ResponseFlags;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::time::{Duration, UNIX_EPOCH};

/// Panics where something is wrong. What is behind the last NUL stands for each value that others choose.
pub fn run(bytes: &[u8]) {
    let at = bytes.iter().rposition(|byte| *byte == 0);
    let (format, value) = at.map_or((bytes, &b"x"[..]), |at| (&bytes[..at], &bytes[at + 1..]));
    let Ok(format) = std::str::from_utf8(format) else {
        return;
    };
    let text = String::from_utf8_lossy(value);
    let formats = [
        AccessFormat::text(Some(format)),
        AccessFormat::json(Some(format)),
        AccessFormat::text(None),
        AccessFormat::json(None),
    ];
    for (number, format) in formats.into_iter().enumerate() {
        let Ok(format) = format else {
            assert!(number < 2);
            continue;
        };
        let mut headers = HeaderMap::new();
        let names = format
            .request_headers()
            .iter()
            .chain(format.response_headers());
        for name in names
            .cloned()
            .chain([HeaderName::from_static("x-request-id")])
        {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.insert(name, value);
            }
        }
        let line = format.line(&entry(&text, &headers));
        let body = line.strip_suffix('\n').expect("a line ends");
        assert!(!body.contains('\n'), "{body:?}");
        let is_json = number % 2 == 1;
        // The format's own text is the user's; in JSON it is escaped too.
        if number >= 2 || is_json {
            assert!(!body.contains(escape::is_harmful), "{body:?}");
        }
        if is_json {
            serde_json::from_str::<serde_json::Value>(body).expect("it is JSON");
        }
    }
}

fn entry<'a>(text: &'a str, headers: &'a HeaderMap) -> Entry<'a> {
    let address = std::net::SocketAddr::from(([192, 0, 2, 1], 80));
    Entry {
        started: UNIX_EPOCH + Duration::from_millis(text.len() as u64),
        duration: Duration::from_millis(text.len() as u64),
        request: (!text.len().is_multiple_of(3)).then_some(AskedFor {
            method: text,
            authority: text,
            target: text,
            protocol: "HTTP/1.1",
        }),
        request_headers: headers,
        response_headers: headers,
        response_code: 200,
        flags: ResponseFlags::default(),
        details: Some(text),
        transport_failure: Some(text),
        bytes_received: 1,
        bytes_sent: 2,
        attempts: 1,
        cluster: None,
        upstream: (!text.len().is_multiple_of(2)).then_some(address),
        upstream_local: None,
        dialled: address,
        peer: address,
        server_name: Some(text),
        route_name: Some(text),
    }
}
