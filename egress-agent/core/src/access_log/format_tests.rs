//! Lines of both encodings.

use super::*;
use crate::access_log::AskedFor;
use crate::http::response_flags::{ResponseFlag, ResponseFlags};
use crate::http::test_headers::headers;
use crate::traffic::ClusterId;
use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use std::time::{Duration, UNIX_EPOCH};

/// The lines of a request that an origin answered, with these headers.
fn line(format: &AccessFormat, request: &HeaderMap, change: impl FnOnce(&mut Entry<'_>)) -> String {
    let response = headers(&[("x-envoy-upstream-service-time", "12")]);
    let cluster = ClusterId::new("httpbin.org", 80);
    let mut entry = Entry {
        started: UNIX_EPOCH + Duration::from_millis(1_795_939_201_250),
        duration: Duration::from_micros(13_999),
        request: Some(AskedFor {
            method: "GET",
            authority: "httpbin.org",
            target: "/get?q=1",
            protocol: "HTTP/1.1",
        }),
        request_headers: request,
        response_headers: &response,
        response_code: 200,
        flags: ResponseFlags::default(),
        details: Some("via_upstream"),
        transport_failure: None,
        bytes_received: 3,
        bytes_sent: 40,
        attempts: 1,
        cluster: Some(&cluster),
        upstream: Some("192.0.2.9:80".parse().unwrap()),
        upstream_local: Some("192.0.2.7:4001".parse().unwrap()),
        dialled: "[2001:db8::1]:80".parse().unwrap(),
        peer: "192.0.2.7:4000".parse().unwrap(),
        server_name: None,
        route_name: Some("default"),
    };
    change(&mut entry);
    format.line(&entry)
}

#[test]
fn a_line_of_text_is_istios() {
    let sent = headers(&[("user-agent", "curl/8.5"), ("x-request-id", "6f2c")]);
    let text = AccessFormat::text(None).unwrap();
    assert_eq!(
        line(&text, &sent, |_| {}),
        "[2026-11-29T08:00:01.250Z] \"GET /get?q=1 HTTP/1.1\" 200 - via_upstream - \"-\" 3 40 13 12 \"-\" \"curl/8.5\" \
         \"6f2c\" \"httpbin.org\" \"192.0.2.9:80\" outbound|80||httpbin.org 192.0.2.7:4001 [2001:db8::1]:80 \
         192.0.2.7:4000 - default\n"
    );
    let tls = line(&text, &HeaderMap::new(), |entry| {
        entry.request = None;
        entry.response_code = 0;
        entry.flags = ResponseFlag::UF.into();
        (entry.details, entry.route_name) = (None, None);
        entry.server_name = Some("httpbin.org");
        entry.transport_failure = Some("delayed connect error: Connection refused");
    });
    assert_eq!(
        tls,
        "[2026-11-29T08:00:01.250Z] \"- - -\" 0 UF - - \"delayed connect error: Connection refused\" 3 40 13 12 \"-\" \
         \"-\" \"-\" \"-\" \"192.0.2.9:80\" outbound|80||httpbin.org 192.0.2.7:4001 [2001:db8::1]:80 192.0.2.7:4000 \
         httpbin.org -\n"
    );
}

#[test]
fn a_rewritten_path_is_shown_as_the_client_sent_it() {
    let sent = headers(&[("x-envoy-original-path", "/before")]);
    let text = AccessFormat::text(Some("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%\n")).unwrap();
    assert_eq!(line(&text, &sent, |_| {}), "/before\n");
    assert_eq!(text.request_headers(), ["x-envoy-original-path"]);
}

#[test]
fn a_line_of_json_is_istios_with_sorted_keys_and_types() {
    let sent = headers(&[("user-agent", "curl/8.5")]);
    let line = line(&AccessFormat::json(None).unwrap(), &sent, |_| {});
    let read: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        read,
        json!({
            "authority": "httpbin.org", "bytes_received": 3, "bytes_sent": 40,
            "connection_termination_details": null, "downstream_local_address": "[2001:db8::1]:80",
            "downstream_remote_address": "192.0.2.7:4000", "duration": 13, "method": "GET", "path": "/get?q=1",
            "protocol": "HTTP/1.1", "request_id": null, "requested_server_name": null, "response_code": 200,
            "response_code_details": "via_upstream", "response_flags": "-", "route_name": "default",
            "start_time": "2026-11-29T08:00:01.250Z", "upstream_cluster": "outbound|80||httpbin.org",
            "upstream_host": "192.0.2.9:80", "upstream_local_address": "192.0.2.7:4001",
            "upstream_service_time": "12", "upstream_transport_failure_reason": null, "user_agent": "curl/8.5",
            "x_forwarded_for": null,
        })
    );
    assert_eq!(line, format!("{read}\n"), "sorted, without spaces");
}

#[test]
fn what_a_client_sends_forges_no_line_no_field_and_no_key() {
    let mut sent = HeaderMap::new();
    // A header value has no control characters but the tab.
    let hostile = b"a\", \"response_code\": 200, \"x\": \"\\\t\xff\xc2\x85";
    sent.insert("user-agent", HeaderValue::from_bytes(hostile).unwrap());
    let target = "/\"%0a\u{1b}[2K\u{202e}\n2026 forged\r\u{0}";
    let hostile_entry = |entry: &mut Entry<'_>| {
        entry.request.as_mut().unwrap().target = target;
        entry.response_code = 502;
        entry.server_name = Some("a\nb");
    };
    for format in [AccessFormat::text(None), AccessFormat::json(None)] {
        let line = line(&format.unwrap(), &sent, hostile_entry);
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        let harmful = line
            .trim_end()
            .contains(crate::access_log::escape::is_harmful);
        assert!(!harmful, "{line:?}");
    }
    let line = line(&AccessFormat::json(None).unwrap(), &sent, hostile_entry);
    let read: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(read["path"], target);
    assert_eq!(read["response_code"], 502);
    assert!(read.get("x").is_none());
}

#[test]
fn a_format_of_a_user_may_nest_and_has_bounds() {
    let format = r#"{"z": {"to": "%UPSTREAM_HOST%/%ROUTE_NAME%", "n": [1, "%DOWNSTREAM_REMOTE_PORT%"]}, "a\n": "x%%"}"#;
    let line = line(
        &AccessFormat::json(Some(format)).unwrap(),
        &HeaderMap::new(),
        |entry| entry.upstream = None,
    );
    assert_eq!(
        line,
        "{\"a\\n\":\"x%\",\"z\":{\"n\":[1,4000],\"to\":\"-/default\"}}\n"
    );
    for (bad, why) in [
        (
            AccessFormat::text(Some("%HOSTNAME%")),
            "%HOSTNAME% is not carried out",
        ),
        (
            AccessFormat::text(Some("%START_TIME(%s)%")),
            "%START_TIME(% is not carried out",
        ),
        (
            AccessFormat::text(Some("a\nb")),
            "has a line break before its end",
        ),
        (
            AccessFormat::text(Some(&"x".repeat(SIZE + 1))),
            "is longer than 16 KiB",
        ),
        (
            AccessFormat::text(Some(&"%DURATION%".repeat(101))),
            "has more than 100 commands",
        ),
        (
            AccessFormat::json(Some("%DURATION%")),
            "is not JSON: expected value at line 1 column 1",
        ),
        (AccessFormat::json(Some("[]")), "is not a JSON object"),
        (
            AccessFormat::json(Some(r#"{"a": ["%X%"]}"#)),
            "%X% is not carried out",
        ),
    ] {
        assert_eq!(bad.unwrap_err().to_string(), why);
    }
}
