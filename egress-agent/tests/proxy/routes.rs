//! What a route does besides forwarding: redirects, fixed replies, rewrites, changed headers, faults, cross-origin
//! policies. Rules are Istio's YAML; clients and origins send bytes.

use crate::raw::*;
use crate::support::*;
use crate::yaml::*;
use egress_agent::proxy::Limits;
use egress_core::routing::PortRoutes;
use std::time::{Duration, Instant};

const HTTP: &str = "protocol: HTTP";

/// A proxy with these `http` routes of `a.example`, before an origin that answers with what it got.
async fn bed(routes: &str) -> Bed {
    let origin = echo_origin().await;
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    let spec = format!("{{hosts: [a.example], http: [{routes}]}}");
    bed.put(rules(origin, HTTP, &object("VirtualService", &spec)));
    bed
}

const TO: &str = "route: [{destination: {host: a.example}}]";

/// The reply to a request, without the lines that differ from one to the next.
async fn reply(bed: &Bed, request: &str) -> String {
    let message = bed.client().await.ask(request).await;
    let lines = message.head.split("\r\n");
    let fixed = lines.filter(|line| !line.starts_with("date: ") && !line.is_empty());
    let mut lines: Vec<&str> = fixed.collect();
    lines[1..].sort_unstable();
    lines.join("|") + "|" + message.text()
}

/// What the origin got: the request line, and whether it has each of these lines.
async fn seen(bed: &Bed, request: &str) -> String {
    bed.client().await.ask(request).await.text().to_owned()
}

#[tokio::test]
async fn a_redirect_is_answered_by_the_proxy() {
    let bed = bed("{match: [{uri: {prefix: /old/}}], redirect: {prefixRewrite: /new/, redirectCode: 302}}, \
                   {match: [{uri: {exact: /foo}}], redirect: {uri: /new/path, authority: b.example, scheme: https}}, \
                   {redirect: {derivePort: FROM_REQUEST_PORT, uri: /}}")
    .await;
    for (path, status, location) in [
        (
            "/foo?key=value",
            "301 Moved Permanently",
            "https://b.example/new/path?key=value",
        ),
        ("/old/a?b", "302 Found", "http://a.example/new/a?b"),
        ("/else", "301 Moved Permanently", "http://a.example/"),
    ] {
        assert_eq!(
            reply(&bed, &get("a.example", path)).await,
            format!("HTTP/1.1 {status}|content-length: 0|location: {location}|server: envoy|")
        );
    }
}

#[tokio::test]
async fn a_fixed_reply_has_its_status_and_body() {
    let bed = bed("{match: [{uri: {exact: /text}}], directResponse: {status: 503, body: {string: 'closed today'}}}, \
                   {match: [{uri: {exact: /json}}], directResponse: {status: 200, body: {string: '{}'}}, \
                    headers: {response: {set: {content-type: application/json}, add: {x-path: '%REQ(:path)%'}}}}, \
                   {directResponse: {status: 204}}")
    .await;
    for (path, expected) in [
        (
            "/text",
            "HTTP/1.1 503 Service Unavailable|content-length: 12|content-type: text/plain|server: envoy|closed today",
        ),
        (
            "/json",
            "HTTP/1.1 200 OK|content-length: 2|content-type: application/json|server: envoy|x-path: /json|{}",
        ),
    ] {
        assert_eq!(reply(&bed, &get("a.example", path)).await, expected);
    }
    let message = bed.client().await.ask(&get("a.example", "/else")).await;
    assert_eq!((message.status(), message.text()), (204, ""));
}

#[tokio::test]
async fn a_rewrite_changes_path_and_authority_for_the_origin() {
    let bed = bed(&format!(
        "{{match: [{{uri: {{prefix: /one/}}}}, {{uri: {{exact: /two}}}}], rewrite: {{uri: /new/}}, {TO}}}, \
         {{match: [{{uri: {{prefix: /three}}}}], rewrite: {{uriRegexRewrite: {{match: '/(\\w+)/(\\w+)', rewrite: '/\\2/\\1'}}}}, {TO}}}, \
         {{rewrite: {{authority: b.example}}, {TO}}}"
    ))
    .await;
    for (path, line, original) in [
        ("/one/a?q=1", "GET /new/a?q=1 HTTP/1.1", "/one/a?q=1"),
        ("/two?q", "GET /new/?q HTTP/1.1", "/two?q"),
        ("/three/four", "GET /four/three HTTP/1.1", "/three/four"),
    ] {
        let seen = seen(&bed, &get("a.example", path)).await;
        assert!(seen.starts_with(line), "{seen}");
        let header = format!("\r\nx-envoy-original-path: {original}\r\n");
        assert!(seen.contains(&header), "{seen}");
        assert!(seen.contains("\r\nhost: a.example\r\n"), "{seen}");
    }
    let seen = seen(&bed, &get("a.example", "/else")).await;
    assert!(seen.starts_with("GET /else HTTP/1.1"), "{seen}");
    assert!(seen.contains("\r\nhost: b.example\r\n"), "{seen}");
    assert!(
        seen.contains("\r\nx-envoy-original-host: a.example\r\n"),
        "{seen}"
    );
    assert!(!seen.contains("x-envoy-original-path"), "{seen}");
}

#[tokio::test]
async fn headers_are_changed_on_the_way_there_and_back() {
    let bed = bed(
        "{headers: {request: {set: {x-both: route}, add: {x-from: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'}, \
          remove: [x-token]}, response: {set: {server: mine, x-sent: '%REQ(x-b)%'}, remove: [x-envoy-upstream-service-time]}}, \
         route: [{destination: {host: a.example}, headers: {request: {set: {x-both: destination, Host: b.example}}, \
          response: {add: {x-more: '1'}}}}]}",
    )
    .await;
    let request = "GET / HTTP/1.1\r\nhost: a.example\r\nx-token: secret\r\nx-b: 2\r\n\r\n";
    let message = bed.client().await.ask(request).await;
    let seen = message.text();
    for line in [
        "x-both: route",
        "x-from: 127.0.0.1",
        "host: b.example",
        "x-b: 2",
    ] {
        assert!(seen.contains(&format!("\r\n{line}\r\n")), "{line}: {seen}");
    }
    assert!(!seen.contains("secret"), "{seen}");
    for line in ["server: envoy", "x-sent: 2", "x-more: 1"] {
        assert!(
            message.head.contains(&format!("\r\n{line}\r\n")),
            "{line}: {}",
            message.head
        );
    }
    assert!(!message.head.contains("service-time"), "{}", message.head);
}

#[tokio::test]
async fn faults_delay_and_abort_a_share_of_the_requests() {
    let all = "percentage: {value: 100}";
    let bed = bed(&format!(
        "{{match: [{{uri: {{exact: /abort}}}}], fault: {{abort: {{httpStatus: 418, {all}}}}}, {TO}}}, \
         {{match: [{{uri: {{exact: /none}}}}], fault: {{abort: {{httpStatus: 418}}, delay: {{fixedDelay: 30s}}}}, {TO}}}, \
         {{match: [{{uri: {{exact: /grpc}}}}], fault: {{abort: {{grpcStatus: NOT_FOUND, {all}}}}}, {TO}}}, \
         {{match: [{{uri: {{exact: /half}}}}], fault: {{abort: {{httpStatus: 503, percentage: {{value: 50}}}}}}, {TO}}}, \
         {{fault: {{delay: {{fixedDelay: 0.3s, {all}}}}}, {TO}}}"
    ))
    .await;
    assert_eq!(
        reply(&bed, &get("a.example", "/abort")).await,
        "HTTP/1.1 418 Unknown|content-length: 18|content-type: text/plain|server: envoy|fault filter abort"
    );
    assert_eq!(bed.record().await.flags.to_string(), "FI");
    let message = bed.client().await.ask(&get("a.example", "/none")).await;
    assert_eq!(message.status(), 200);
    let grpc = "GET /grpc HTTP/1.1\r\nhost: a.example\r\ncontent-type: application/grpc\r\n\r\n";
    let message = bed.client().await.ask(grpc).await;
    assert_eq!(message.status(), 200);
    assert!(
        message.head.contains("\r\ngrpc-status: 5\r\n"),
        "{}",
        message.head
    );
    let mut client = bed.client().await;
    let mut aborted = 0;
    for _ in 0..200 {
        let message = client.ask(&get("a.example", "/half")).await;
        aborted += u32::from(message.status() == 503);
    }
    // Fewer or more happen once in 10^9 runs.
    assert!((55..=145).contains(&aborted), "{aborted} of 200");
    let started = Instant::now();
    let message = bed.client().await.ask(&get("a.example", "/else")).await;
    assert_eq!(message.status(), 200);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn a_request_that_was_delayed_is_judged_by_the_rules_of_then() {
    let delay = Duration::from_millis(300);
    let origin = raw_origin(|_, _| async { panic!("the request left") }).await;
    let rules = |http: &str| {
        let spec = format!("{{hosts: [a.example], http: [{http}]}}");
        rules(origin, HTTP, &object("VirtualService", &spec))
    };
    let slow = "fault: {delay: {fixedDelay: 0.3s, percentage: {value: 100}}}";
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    // Until the rules change after the request was judged: then it was delayed.
    for turns in 0.. {
        bed.put(rules(&format!("{{{slow}, {TO}}}")));
        let begun = Instant::now();
        let mut client = bed.client().await;
        client.send(get("a.example", "/").as_bytes()).await;
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        bed.put(rules("{directResponse: {status: 403}}"));
        assert_eq!(client.message().await.unwrap().status(), 403);
        if begun.elapsed() >= delay {
            return;
        }
        assert!(turns < 10_000, "the request is never judged first");
    }
}

#[tokio::test]
async fn a_cross_origin_policy_answers_preflights_and_marks_responses() {
    let bed = bed(&format!(
        "{{corsPolicy: {{allowOrigins: [{{exact: 'http://cors.example'}}], allowMethods: [POST, GET], \
          allowHeaders: [X-Foo], exposeHeaders: [X-Seen], maxAge: 24h, allowCredentials: false}}, {TO}}}"
    ))
    .await;
    let preflight = |origin: &str| {
        format!(
            "OPTIONS / HTTP/1.1\r\nhost: a.example\r\norigin: {origin}\r\naccess-control-request-method: DELETE\r\n\r\n"
        )
    };
    assert_eq!(
        reply(&bed, &preflight("http://cors.example")).await,
        "HTTP/1.1 200 OK|access-control-allow-headers: X-Foo|access-control-allow-methods: POST,GET|\
         access-control-allow-origin: http://cors.example|access-control-expose-headers: X-Seen|access-control-max-age: 86400|content-length: 0|server: envoy|"
    );
    let seen = seen(&bed, &preflight("http://other.example")).await;
    assert!(seen.starts_with("OPTIONS / HTTP/1.1"), "{seen}");
    let request = "GET / HTTP/1.1\r\nhost: a.example\r\norigin: http://cors.example\r\n\r\n";
    let message = bed.client().await.ask(request).await;
    for line in [
        "access-control-allow-origin: http://cors.example",
        "access-control-expose-headers: X-Seen",
    ] {
        assert!(
            message.head.contains(&format!("\r\n{line}\r\n")),
            "{}",
            message.head
        );
    }
    let message = bed.client().await.ask(&get("a.example", "/")).await;
    assert!(!message.head.contains("access-control"), "{}", message.head);
}
