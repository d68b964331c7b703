//! Lines of the access log about flows of every kind, also of those that are denied.

use crate::raw::{echo_origin, fixed_origin, get, raw_origin, refused_address};
use crate::streams::Client;
use crate::support::{Bed, HOST, destination, http_port, tls_port};
use egress_core::access_log::AccessFormat;
use egress_core::routing::PortKind;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::SystemTime;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The next line as JSON.
async fn line(bed: &Bed) -> Value {
    let record = bed.record().await;
    let origin = destination("192.0.2.1:80");
    let entry = record.entry(&origin, SystemTime::now());
    let line = AccessFormat::json(None).unwrap().line(&entry);
    assert_eq!(line.matches('\n').count(), 1, "{line}");
    serde_json::from_str(&line).unwrap()
}

#[tokio::test]
async fn a_request_is_told_with_its_upstream_and_its_id_is_the_one_that_left() {
    let origin = echo_origin().await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    let sent = "POST /a?b HTTP/1.1\r\nhost: httpbin.org\r\nuser-agent: curl/8\r\ncontent-length: 3\r\n\r\nabc";
    let reply = client.ask(sent).await.text().to_owned();
    let line = line(&bed).await;
    for (key, value) in [
        ("method", "POST"),
        ("path", "/a?b"),
        ("protocol", "HTTP/1.1"),
        ("authority", HOST),
        ("user_agent", "curl/8"),
        ("response_code_details", "via_upstream"),
        ("response_flags", "-"),
        ("route_name", "default"),
        ("upstream_cluster", "outbound|80||httpbin.org"),
        ("upstream_host", &origin.to_string()),
        ("downstream_local_address", "192.0.2.1:80"),
    ] {
        assert_eq!(line[key], value, "{key}: {line}");
    }
    assert_eq!(
        (&line["response_code"], &line["bytes_received"]),
        (&200.into(), &3.into())
    );
    assert_eq!(line["bytes_sent"], reply.len());
    let id = line["request_id"].as_str().unwrap();
    assert!(
        reply.contains(&format!("x-request-id: {id}\r\n")),
        "{id}: {reply}"
    );
    let local: SocketAddr = line["upstream_local_address"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!(local.ip().is_loopback());
    assert!(line["upstream_service_time"].is_string());
}

#[tokio::test]
async fn denied_and_failed_requests_have_lines_too() {
    let bed = Bed::new(http_port(HOST, &[refused_address()], None)).await;
    let mut client = bed.client().await;
    assert_eq!(client.ask(&get("other.example", "/x")).await.status(), 502);
    let denied = line(&bed).await;
    assert_eq!(denied["route_name"], "block_all");
    assert_eq!(denied["response_code_details"], "direct_response");
    assert_eq!(denied["authority"], "other.example");
    assert_eq!(denied["request_id"].as_str().map(str::len), Some(36));
    assert!(denied["upstream_host"].is_null() && denied["upstream_cluster"].is_null());
    assert_eq!(client.ask(&get(HOST, "/y")).await.status(), 503);
    let failed = line(&bed).await;
    assert_eq!(failed["response_flags"], "URX,UF");
    assert_eq!(
        failed["upstream_transport_failure_reason"],
        "delayed_connect_error:_Connection_refused"
    );
    drop(client);
    let mut client = bed.client().await;
    client.send(b"GET /z HTTP/1.1\r\nhost: a b\r\n\r\n").await;
    client.rest().await;
    let broken = line(&bed).await;
    assert_eq!(
        (&broken["response_code"], &broken["response_flags"]),
        (&400.into(), &"DPE".into())
    );
    assert_eq!(broken["response_code_details"], "http.invalid_authority");
}

#[tokio::test]
async fn what_a_client_sends_stays_within_its_field() {
    // The head is no UTF-8, so the origin reads only its start.
    let origin = raw_origin(|_, mut raw| async move {
        raw.take(5).await.unwrap();
        raw.send(OK.as_bytes()).await;
        raw.take(1 << 20).await;
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut client = bed.client().await;
    let hostile = b"GET /\"\xc2 HTTP/1.1\r\nhost: httpbin.org\r\nuser-agent: a\", \"response_code\": 500, \"b\": \"\xc2\x9b2J\xff\t\\\r\n\r\n";
    client.send(hostile).await;
    client.message().await;
    let broken = line(&bed).await;
    assert_eq!(broken["response_code"], 400);
    let mut client = bed.client().await;
    let hostile = b"GET /%0a%1b HTTP/1.1\r\nhost: httpbin.org\r\nuser-agent: a\", \"response_code\": 500, \"b\": \"\xc2\x9b2J\xff\t\\\r\n\r\n";
    client.send(hostile).await;
    client.message().await.unwrap();
    let line = line(&bed).await;
    assert_eq!(
        (&line["response_code"], &line["b"]),
        (&200.into(), &Value::Null)
    );
    assert_eq!(line["path"], "/%0a%1b");
    assert_eq!(
        line["user_agent"],
        "a\", \"response_code\": 500, \"b\": \"\u{9b}2J\u{fffd}\t\\"
    );
}

#[tokio::test]
async fn http2_tls_and_tcp_connections_have_lines() {
    let bed = Bed::new(http_port(HOST, &[fixed_origin(OK).await], None)).await;
    let mut client = Client::new(&bed).await;
    assert_eq!(client.get(HOST, "/h2").await.status, 200);
    let http2 = line(&bed).await;
    assert_eq!(
        (&http2["protocol"], &http2["path"]),
        (&"HTTP/2".into(), &"/h2".into())
    );

    let origin = raw_origin(|_, mut raw| async move {
        let hello = raw.take(5).await.unwrap();
        raw.send(&hello).await;
    })
    .await;
    let hello = crate::tls::real_hello("www.google.com");
    let bed = Bed::new(tls_port(PortKind::Tls, "www.google.com", &[origin])).await;
    let mut client = bed.client().await;
    client.send(&hello).await;
    client.rest().await;
    drop(client);
    let tls = line(&bed).await;
    assert_eq!(tls["requested_server_name"], "www.google.com");
    assert_eq!(tls["upstream_cluster"], "outbound|80||www.google.com");
    assert_eq!(
        (&tls["response_code"], &tls["method"]),
        (&0.into(), &Value::Null)
    );
    assert_eq!(tls["bytes_sent"], 5);
    assert!(tls["upstream_local_address"].is_string());

    let mut client = bed.client().await;
    client.send(&crate::tls::real_hello("other.example")).await;
    client.rest().await;
    let denied = line(&bed).await;
    assert_eq!(denied["requested_server_name"], "other.example");
    assert_eq!(
        (&denied["upstream_cluster"], &denied["response_flags"]),
        (&"BlackHoleCluster".into(), &"UH".into())
    );
}
