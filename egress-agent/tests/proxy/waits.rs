//! Requests that wait for a connection of a limited pool: what ends the wait, and that whoever waited is judged again.

use crate::raw::{Raw, get, raw_origin};
use crate::streams::{Client, get as stream_get, ok, whole, write};
use crate::support::{Bed, PATIENCE, destination};
use crate::yaml::{object, rule, rules};
use bytes::Bytes;
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::PortRoutes;
use h2::server::SendResponse;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{sleep, timeout};

const HOST: &str = "a.example";

/// An origin that answers each request with its name, as soon as it has a permit.
struct Slow {
    at: SocketAddr,
    go: Arc<Semaphore>,
    asked: mpsc::UnboundedReceiver<usize>,
}

async fn slow(name: &'static str) -> Slow {
    let go = Arc::new(Semaphore::new(0));
    let (tell, asked) = mpsc::unbounded_channel();
    let gate = Arc::clone(&go);
    let at = raw_origin(move |number, mut raw: Raw| {
        let (gate, tell) = (Arc::clone(&gate), tell.clone());
        async move {
            while raw.message().await.is_some() {
                tell.send(number).ok();
                gate.acquire().await.unwrap().forget();
                let length = name.len();
                let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{name}");
                raw.send(reply.as_bytes()).await;
            }
        }
    })
    .await;
    Slow { at, go, asked }
}

fn one_connection() -> String {
    rule("trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}")
}

/// A request of a route with this match, which waits behind another one.
async fn waiting(origin: &mut Slow, more: &str) -> (Bed, Raw, Raw) {
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    bed.put(rules(
        origin.at,
        "protocol: HTTP",
        &format!("{}---\n{more}", one_connection()),
    ));
    let (mut first, mut second) = (bed.client().await, bed.client().await);
    first.send(get(HOST, "/a").as_bytes()).await;
    assert_eq!(origin.asked.recv().await, Some(0));
    second.send(get(HOST, "/a").as_bytes()).await;
    // Nothing tells that it waits.
    sleep(Duration::from_millis(300)).await;
    (bed, first, second)
}

fn routed(prefix: &str) -> String {
    object(
        "VirtualService",
        &format!(
            "{{hosts: [a.example], http: [{{match: [{{uri: {{prefix: {prefix}}}}}], \
             route: [{{destination: {{host: a.example}}}}]}}]}}"
        ),
    )
}

#[tokio::test]
async fn a_request_that_waited_goes_to_the_endpoints_of_now() {
    let (mut before, now) = (slow("before").await, slow("now").await);
    now.go.add_permits(1);
    let (bed, mut first, mut second) = waiting(&mut before, "").await;
    bed.put(rules(now.at, "protocol: HTTP", &one_connection()));
    before.go.add_permits(2);
    assert_eq!(first.message().await.unwrap().text(), "before");
    let reply = timeout(PATIENCE, second.message()).await.unwrap();
    assert_eq!(reply.unwrap().text(), "now");
    assert!(
        before.asked.try_recv().is_err(),
        "it got the first request only"
    );
}

#[tokio::test]
async fn a_request_that_waited_is_denied_if_its_route_is_gone() {
    let mut origin = slow("origin").await;
    let (bed, mut first, mut second) = waiting(&mut origin, &routed("/a")).await;
    let more = format!("{}---\n{}", one_connection(), routed("/b"));
    bed.put(rules(origin.at, "protocol: HTTP", &more));
    origin.go.add_permits(2);
    assert_eq!(first.message().await.unwrap().status(), 200);
    let reply = timeout(PATIENCE, second.message()).await.unwrap();
    assert_eq!(reply.unwrap().status(), 502);
    assert_eq!(bed.denial().await, DenialReason::Removed);
    assert!(
        origin.asked.try_recv().is_err(),
        "it got the first request only"
    );
}

#[tokio::test]
async fn the_timeout_of_the_route_ends_the_wait() {
    let mut origin = slow("origin").await;
    let route = object(
        "VirtualService",
        "{hosts: [a.example], http: [{timeout: 0.6s, route: [{destination: {host: a.example}}]}]}",
    );
    let (_bed, _first, mut second) = waiting(&mut origin, &route).await;
    let reply = timeout(PATIENCE, second.message()).await.unwrap();
    assert_eq!(reply.unwrap().status(), 504);
}

#[tokio::test]
async fn a_timeout_in_the_queue_does_not_count_against_the_endpoint() {
    let mut origin = slow("origin").await;
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    let pool = rule(
        "trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}, \
         outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 60s, maxEjectionPercent: 100}}",
    );
    let to = "route: [{destination: {host: a.example}}]";
    let routes = format!(
        "{{hosts: [a.example], http: [{{match: [{{uri: {{prefix: /t}}}}], timeout: 0.2s, {to}}}, {{{to}}}]}}"
    );
    let routes = object("VirtualService", &routes);
    bed.put(rules(
        origin.at,
        "protocol: HTTP",
        &format!("{pool}---\n{routes}"),
    ));
    let (mut first, mut second) = (bed.client().await, bed.client().await);
    first.send(get(HOST, "/a").as_bytes()).await;
    assert_eq!(origin.asked.recv().await, Some(0));
    let waited = timeout(PATIENCE, second.ask(&get(HOST, "/t")))
        .await
        .unwrap();
    assert_eq!(waited.status(), 504);
    origin.go.add_permits(2);
    assert_eq!(first.message().await.unwrap().status(), 200);
    let after = timeout(PATIENCE, second.ask(&get(HOST, "/a")))
        .await
        .unwrap();
    assert_eq!((after.status(), after.text()), (200, "origin"));
}

#[tokio::test]
async fn the_wait_ends_with_the_time_that_a_connection_may_be_silent() {
    let mut origin = slow("origin").await;
    let from = destination("192.0.2.1:80");
    let limits = Limits {
        idle: Duration::from_secs(1),
        ..Limits::default()
    };
    let bed = Bed::with(PortRoutes::default(), Some(from), limits).await;
    bed.put(rules(origin.at, "protocol: HTTP", &one_connection()));
    let mut client = Client::new(&bed).await;
    let first = client.begin(stream_get(HOST, "/"), true).await;
    assert_eq!(origin.asked.recv().await, Some(0));
    let reply = timeout(PATIENCE, client.get(HOST, "/")).await.unwrap();
    assert_eq!(reply.status, 503);
    assert_eq!(bed.record().await.flags.to_string(), "UO");
    drop(first);
}

#[tokio::test]
async fn a_request_beyond_the_streams_of_the_only_connection_goes_on_with_the_next_free_stream() {
    let go = Arc::new(Semaphore::new(0));
    let (tell, mut asked) = mpsc::unbounded_channel();
    let gate = Arc::clone(&go);
    let origin = crate::streams::origin(move |number, mut respond: SendResponse<Bytes>| {
        let (gate, tell) = (Arc::clone(&gate), tell.clone());
        async move {
            tell.send(number).ok();
            gate.acquire().await.unwrap().forget();
            let mut body = respond.send_response(ok(), false).unwrap();
            write(&mut body, "ok".into(), true).await;
        }
    })
    .await;
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    let pool =
        "{tcp: {maxConnections: 1}, http: {maxConcurrentStreams: 2, http1MaxPendingRequests: 2}}";
    let more = rule(&format!("trafficPolicy: {{connectionPool: {pool}}}"));
    bed.put(rules(origin, "protocol: GRPC", &more));
    let mut client = Client::new(&bed).await;
    let mut all = Vec::new();
    for _ in 0..2 {
        all.push(client.begin(stream_get(HOST, "/"), true).await.0);
        timeout(PATIENCE, asked.recv()).await.unwrap().unwrap();
    }
    for _ in 0..2 {
        all.push(client.begin(stream_get(HOST, "/"), true).await.0);
    }
    // Two wait, and more may not.
    let over = timeout(PATIENCE, client.get(HOST, "/")).await.unwrap();
    assert_eq!(over.status, 503);
    // Never is the connection idle from here on.
    for _ in 0..2 {
        go.add_permits(1);
        timeout(PATIENCE, asked.recv()).await.unwrap().unwrap();
    }
    go.add_permits(2);
    for response in all {
        assert_eq!(whole(response).await.unwrap().text(), "ok");
    }
}
