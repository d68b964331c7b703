//! Connections that the proxy ends: those without traffic, those whose rule was removed, and those above the limit of
//! one cgroup.

use crate::raw::*;
use crate::support::*;
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::{Cluster, PortKind, PortRoutes, Split};
use egress_core::traffic::{ClusterId, RoutePolicy};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: httpbin.org\r\nconnection: upgrade\r\n\
                       upgrade: websocket\r\n\r\n";

fn limits(idle: Duration) -> Limits {
    Limits {
        idle,
        ..Limits::default()
    }
}

async fn bed(port: PortRoutes, limits: Limits) -> Bed {
    Bed::with(port, Some(destination("192.0.2.1:80")), limits).await
}

/// Sends `greeting` and then echoes. If a request is expected, it first reads its head.
async fn echo(head: bool, greeting: &'static str) -> SocketAddr {
    raw_origin(move |_, mut raw| async move {
        if head {
            raw.head().await;
        }
        raw.send(greeting.as_bytes()).await;
        while let Some(byte) = raw.take(1).await {
            raw.send(&byte).await;
        }
    })
    .await
}

async fn websocket() -> SocketAddr {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\n\
                  upgrade: websocket\r\n\r\n";
    echo(true, switch).await
}

fn tcp_port(origin: SocketAddr) -> PortRoutes {
    let cluster = Cluster {
        id: ClusterId::new("tcp.example", 80),
        endpoints: vec![origin],
        ..Cluster::default()
    };
    tcp_port_to(cluster)
}

/// Bytes move in both directions for longer than the limit. Then they stop, and the connection ends.
async fn ends_in_silence_and_not_before(mut client: Raw, idle: Duration) {
    let start = Instant::now();
    while start.elapsed() < idle * 2 {
        client.send(b"x").await;
        assert_eq!(client.take(1).await.as_deref(), Some(&b"x"[..]));
        tokio::time::sleep(idle / 10).await;
    }
    let silent = Instant::now();
    assert!(client.rest().await.is_empty());
    let silent = silent.elapsed();
    assert!(silent >= idle / 2 && silent < PATIENCE / 2, "{silent:?}");
}

#[tokio::test]
async fn a_relay_and_a_websocket_on_which_nothing_moves_end() {
    let idle = Duration::from_millis(600);
    let relay = bed(tcp_port(echo(false, "").await), limits(idle)).await;
    ends_in_silence_and_not_before(relay.client().await, idle).await;
    let http = bed(http_port(HOST, &[websocket().await], None), limits(idle)).await;
    let mut client = http.client().await;
    client.send(UPGRADE.as_bytes()).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101"));
    ends_in_silence_and_not_before(client, idle).await;
}

#[tokio::test]
async fn a_request_body_that_does_not_go_on_holds_no_connection() {
    let origin = fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let port = http_port(HOST, &[origin], None);
    let bed = bed(port, limits(Duration::from_millis(200))).await;
    let mut client = bed.client().await;
    let head = "POST / HTTP/1.1\r\nHost: httpbin.org\r\ncontent-length: 10\r\n\r\nhalf";
    client.send(head.as_bytes()).await;
    assert!(client.rest().await.is_empty());
}

#[tokio::test]
async fn a_websocket_ends_with_the_rule_that_listed_its_host() {
    let port = http_port(HOST, &[websocket().await], None);
    let bed = bed(port, Limits::default()).await;
    let mut client = bed.client().await;
    client.send(UPGRADE.as_bytes()).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101"));
    bed.change(http_port(HOST, &[refused_address()], None));
    client.send(b"x").await;
    assert_eq!(
        client.take(1).await.as_deref(),
        Some(&b"x"[..]),
        "still listed"
    );
    bed.change(tls_port(PortKind::Sniff, "other.example", &[]));
    let rest = timeout(PATIENCE, client.rest()).await;
    assert!(rest.expect("its end").is_empty());
    assert_eq!(bed.denial().await, DenialReason::Removed);
}

fn service(host: &str, endpoint: SocketAddr) -> Cluster {
    Cluster {
        id: ClusterId::new(host, 80),
        endpoints: vec![endpoint],
        ..Cluster::default()
    }
}

/// A port that lists these hosts, each with its destination.
fn leading(hosts: &[(&str, &Cluster)]) -> PortRoutes {
    let one = |(host, to): &(&str, &Cluster)| {
        let to = Split::one(Arc::new((*to).clone()));
        entries(&split_port(host, to, RoutePolicy::default()).hosts)
    };
    PortRoutes {
        hosts: hosts.iter().flat_map(one).collect::<Vec<_>>().into(),
        ..PortRoutes::default()
    }
}

/// A websocket through a port.
async fn switched(port: PortRoutes) -> (Bed, Raw) {
    let bed = bed(port, Limits::default()).await;
    let mut client = bed.client().await;
    client.send(UPGRADE.as_bytes()).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101"));
    (bed, client)
}

#[tokio::test]
async fn a_running_request_ends_with_the_rule_that_listed_its_destination() {
    let there = service("there.example", websocket().await);
    let missing = Cluster {
        missing: true,
        ..there.clone()
    };
    let mut not_carried_out = there.clone();
    Arc::make_mut(&mut not_carried_out.policy).denied = Some("why".into());
    let elsewhere = service("else.example", refused_address());
    for gone in [missing, not_carried_out, elsewhere] {
        let (bed, mut client) = switched(leading(&[(HOST, &there)])).await;
        bed.change(leading(&[(HOST, &gone)]));
        let rest = timeout(PATIENCE, client.rest()).await;
        assert!(rest.expect("its end").is_empty());
        assert_eq!(bed.denial().await, DenialReason::Removed);
    }
}

#[tokio::test]
async fn a_running_request_goes_on_when_its_route_leads_elsewhere_and_its_destination_is_listed() {
    let there = service("there.example", websocket().await);
    let elsewhere = service("else.example", refused_address());
    let (bed, mut client) = switched(leading(&[(HOST, &there)])).await;
    // Where the routes of the service itself lead does not count.
    for of_service in [&there, &elsewhere] {
        bed.change(leading(&[
            (HOST, &elsewhere),
            ("there.example", of_service),
        ]));
        client.send(b"x").await;
        assert_eq!(client.take(1).await.as_deref(), Some(&b"x"[..]));
    }
}

#[tokio::test]
async fn bytes_end_with_the_rule_that_listed_their_destination() {
    let origin = echo(false, "").await;
    let there = service("there.example", origin);
    let bed = bed(tcp_port_to(there), Limits::default()).await;
    let mut client = bed.client().await;
    client.send(b"x").await;
    assert_eq!(client.take(1).await.as_deref(), Some(&b"x"[..]));
    // The destination that the client dialled stays listed.
    bed.change(tcp_port_to(service("tcp.example", refused_address())));
    let rest = timeout(PATIENCE, client.rest()).await;
    assert!(rest.expect("its end").is_empty());
    assert_eq!(bed.denial().await, DenialReason::Removed);
}

#[tokio::test]
async fn a_cgroup_gets_no_more_connections_than_its_share() {
    let limits = Limits {
        connections_each: 2,
        ..Limits::default()
    };
    let bed = bed(tcp_port(echo(false, "hello").await), limits).await;
    let mut held = [bed.client().await, bed.client().await];
    for client in &mut held {
        assert_eq!(client.take(5).await.as_deref(), Some(&b"hello"[..]));
    }
    assert!(bed.client().await.rest().await.is_empty());
    assert_eq!(bed.denial().await, DenialReason::ConnectionLimit);
    drop(held);
    bed.record().await;
    let mut again = bed.client().await;
    assert_eq!(again.take(5).await.as_deref(), Some(&b"hello"[..]));
}

#[tokio::test]
async fn unfinished_heads_of_a_cgroup_have_a_bound_and_their_room_is_given_back() {
    let limits = Limits {
        memory: 4 * 38 * 4096,
        ..Limits::default()
    };
    let origin = fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let bed = bed(http_port(HOST, &[origin], None), limits).await;
    let half = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nx: {}",
        "y".repeat(57_000)
    );
    let mut held = [bed.client().await, bed.client().await];
    for client in &mut held {
        client.send(half.as_bytes()).await;
    }
    // A next head without room shows that a head is held.
    let mut refused = bed.client().await;
    refused.send(half.as_bytes()).await;
    let (mut kept, mut denied) = (0, 0);
    let [a, b] = &mut held;
    for client in [a, b, &mut refused] {
        match timeout(Duration::from_millis(500), client.message()).await {
            Ok(reply) => {
                let reply = reply.unwrap();
                assert_eq!((reply.status(), reply.text()), (503, "envoy overloaded"));
                assert_eq!(bed.denial().await, DenialReason::MemoryLimit);
                assert_eq!(bed.record().await.flags.to_string(), "UO");
                denied += 1;
            }
            Err(_) => kept += 1,
        }
    }
    assert_eq!((kept, denied), (2, 1));
    for client in &mut held {
        client.send(b"\r\n\r\n").await;
    }
    let mut answered = 0;
    for client in held {
        let mut client = client;
        answered +=
            usize::from(matches!(client.message().await, Some(reply) if reply.status() == 200));
    }
    assert!(answered >= 1, "{answered}");
    let mut again = bed.client().await;
    assert_eq!(again.ask(&format!("{half}\r\n\r\n")).await.status(), 200);
}
