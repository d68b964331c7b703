//! Paths are normalised before any match, and the origin gets the matched path.

use crate::raw::*;
use crate::support::*;
use egress_agent::proxy::DenialReason;
use egress_core::istio::fields::StringMatch;
use egress_core::istio::virtual_service::HttpMatchRequest;
use egress_core::routing::{HttpMatch, HttpRoute, PortRoutes, Split, VirtualHost};
use std::net::SocketAddr;
use std::sync::Arc;

/// One host that only a path below `/public` reaches.
fn public_only(origin: SocketAddr) -> PortRoutes {
    let matched = HttpMatchRequest {
        uri: Some(StringMatch::Prefix("/public".into())),
        ..HttpMatchRequest::default()
    };
    let route = HttpRoute {
        matches: vec![HttpMatch::new(&matched)],
        ..forwarding(Split::one(cluster(HOST, &[origin])))
    };
    PortRoutes {
        hosts: vec![Arc::new(VirtualHost {
            host: HOST.into(),
            nets: vec![],
            routes: vec![Arc::new(route)],
        })]
        .into(),
        ..PortRoutes::default()
    }
}

#[tokio::test]
async fn a_path_that_leads_out_of_a_listed_prefix_is_404() {
    let bed = Bed::new(public_only(echo_origin().await)).await;
    let mut client = bed.client().await;
    for path in [
        "/admin",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/%2E%2E/admin",
        "/public/.%2e/admin",
        "/public\\..\\admin",
        "/public/..\\admin",
        "/public/x/../../admin",
        "/public/..",
        "/public/..;/admin",
        "/public/%2e%2e;x=1/admin",
        "/public/../public/../admin",
        "/../admin?/public",
        "//public",
        "http://httpbin.org/public/../admin",
        "http://httpbin.org?/public",
    ] {
        let reply = client.ask(&get(HOST, path)).await;
        assert_eq!((reply.status(), reply.text()), (404, ""), "{path}");
        assert_eq!(bed.denial().await, DenialReason::NoRoute, "{path}");
        assert_eq!(bed.record().await.flags.to_string(), "NR", "{path}");
    }
    // All were judged on one connection, which still works.
    assert_eq!(client.ask(&get(HOST, "/public")).await.status(), 200);
}

#[tokio::test]
async fn the_origin_sees_the_path_that_was_matched() {
    let bed = Bed::new(public_only(echo_origin().await)).await;
    let mut client = bed.client().await;
    for (sent, seen) in [
        ("/public", "/public"),
        ("/%70ublic/%7euser", "/public/~user"),
        ("/x/../public/./a", "/public/a"),
        ("/x\\..\\public\\a", "/public/a"),
        ("/public/a//b", "/public/a//b"),
        ("/public/%2f..%2Fadmin", "/public/%2f..%2Fadmin"),
        ("/public/%5c..%5cadmin", "/public/%5c..%5cadmin"),
        ("/public/%252e%252e/", "/public/%252e%252e/"),
        ("/public/<a>|{b}", "/public/%3Ca%3E%7C%7Bb%7D"),
        ("/public?a=../%2e%70\\", "/public?a=../%2e%70\\"),
        ("/public?a={b}|\"<c>`^", "/public?a={b}|%22%3Cc%3E`^"),
        ("/public/a?b#c", "/public/a?b"),
        ("http://HTTPBIN.org:80/public?x", "/public?x"),
    ] {
        let reply = client.ask(&get(HOST, sent)).await;
        assert_eq!(reply.status(), 200, "{sent}");
        let line = reply.text().lines().next().unwrap();
        assert_eq!(line, format!("GET {seen} HTTP/1.1"), "{sent}");
        assert_eq!(bed.record().await.path, seen, "{sent}");
    }
}

#[tokio::test]
async fn a_target_that_is_no_path_is_400_and_the_connection_closes() {
    let bed = Bed::new(http_port(HOST, &[echo_origin().await], None)).await;
    for (target, body) in [
        ("/%00", ""),
        ("/public/%00/../x", ""),
        ("*", "Bad Request"),
        ("public", "Bad Request"),
        ("?x", "Bad Request"),
        ("\\public", "Bad Request"),
        ("ftp://httpbin.org/", "Bad Request"),
        ("http:///public", "Bad Request"),
        ("http://evil.example\\@httpbin.org/", "Bad Request"),
        ("/\u{e9}", "Bad Request"),
        ("/a\u{7f}", "Bad Request"),
    ] {
        let mut client = bed.client().await;
        client.send(get(HOST, target).as_bytes()).await;
        client.send(get(HOST, "/next").as_bytes()).await;
        let reply = client.message().await.unwrap();
        assert_eq!((reply.status(), reply.text()), (400, body), "{target}");
        assert_eq!(reply.header("connection"), Some("close"), "{target}");
        assert_eq!(reply.header("server"), Some("envoy"), "{target}");
        assert!(client.rest().await.is_empty(), "{target}");
        let reason = bed.denial().await;
        assert!(
            matches!(reason, DenialReason::MalformedHttp(_)),
            "{target}: {reason}"
        );
        assert_eq!(bed.record().await.response_code, 400, "{target}");
    }
}
