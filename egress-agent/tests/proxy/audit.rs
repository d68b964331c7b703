//! A policy that audits: an unlisted flow reaches the dialled address, and is logged.

use crate::raw::*;
use crate::support::*;
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::{PolicyRoutes, PortKind, PortRoutes, RouteTable};
use egress_core::traffic::RouteName;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// Answers every request.
async fn dialled() -> SocketAddr {
    fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\ndialled").await
}

/// Sends back what it gets.
async fn echo() -> SocketAddr {
    raw_origin(|_, mut raw| async move {
        while let Some(byte) = raw.take(1).await {
            raw.send(&byte).await;
        }
    })
    .await
}

fn auditing(port: Option<(u16, PortRoutes)>) -> RouteTable {
    let policy = PolicyRoutes {
        ports: port.into_iter().map(|(n, p)| (n, Arc::new(p))).collect(),
        audit: true,
        ..PolicyRoutes::default()
    };
    RouteTable {
        generation: 1,
        policies: BTreeMap::from([(POLICY, Arc::new(policy))]),
        owners: Arc::new([(OWNER, POLICY)].into()),
    }
}

/// A client of `origin` whose policy has these routes on that port, and audits.
async fn bed(origin: SocketAddr, port: Option<PortRoutes>) -> Bed {
    let from = destination(&origin.to_string());
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    bed.put(auditing(port.map(|port| (origin.port(), port))));
    bed
}

async fn told(bed: &Bed) -> (DenialReason, Option<String>) {
    let told = bed.told().await;
    assert!(told.audit, "{told:?}");
    (told.reason, told.name)
}

#[tokio::test]
async fn an_unlisted_host_is_served_by_what_was_dialled_and_a_listed_one_as_ever() {
    let own = fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nown").await;
    let bed = bed(dialled().await, Some(http_port(HOST, &[own], None))).await;
    let mut client = bed.client().await;
    let mut ask = async |host| client.ask(&get(host, "/")).await.text().to_owned();
    assert_eq!(ask(HOST).await, "own");
    assert_eq!(ask("other.example").await, "dialled");
    assert_eq!(ask(HOST).await, "own");
    let name = Some("other.example".to_owned());
    assert_eq!(told(&bed).await, (DenialReason::UnlistedHost, name));
}

#[tokio::test]
async fn a_request_that_no_route_takes_has_one_attempt_and_no_operation() {
    let origin = echo_origin().await;
    let listed = bed(origin, Some(http_port(HOST, &[origin], None))).await;
    let mut client = listed.client().await;
    for (host, has_operation) in [(HOST, true), ("other.example", false)] {
        let reply = client.ask(&get(host, "/")).await;
        let seen = reply.text();
        assert!(seen.contains("x-envoy-attempt-count: 1\r\n"), "{seen}");
        assert_eq!(seen.contains("decorator"), has_operation, "{seen}");
    }
    let gone = refused_address();
    let bed = bed(gone, Some(http_port(HOST, &[gone], None))).await;
    let mut client = bed.client().await;
    for (host, attempts, route) in [
        (HOST, 3, RouteName::Service),
        ("other.example", 1, RouteName::AllowAny),
    ] {
        assert_eq!(client.ask(&get(host, "/")).await.status(), 503, "{host}");
        let record = bed.record().await;
        assert_eq!((record.attempts, record.route), (attempts, Some(route)));
    }
}

#[tokio::test]
async fn a_host_without_a_route_is_served_too() {
    let mut port = http_port(HOST, &[], None);
    let mut hosts = entries(&port.hosts);
    Arc::make_mut(&mut hosts[0]).routes.clear();
    port.hosts = hosts.into();
    let bed = bed(dialled().await, Some(port)).await;
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    assert_eq!((reply.status(), reply.text()), (200, "dialled"));
    assert_eq!(told(&bed).await.0, DenialReason::NoRoute);
}

#[tokio::test]
async fn bytes_that_no_rule_expects_are_relayed_as_they_are() {
    let hello = crate::tls::real_hello("other.example");
    let tls = |kind| Some(tls_port(kind, HOST, &[]));
    let http = || Some(http_port(HOST, &[], None));
    let other = Some("other.example".to_owned());
    for (port, bytes, reason, name) in [
        (
            tls(PortKind::Tls),
            &hello[..],
            DenialReason::UnlistedName,
            other,
        ),
        (http(), &hello, DenialReason::WrongProtocol, None),
        (
            http(),
            b"GET / HTTP/1.0\r\n\r\n",
            DenialReason::Http10,
            None,
        ),
        (
            http(),
            b"SSH-2.0-OpenSSH_9.2\r\n",
            DenialReason::UnknownProtocol,
            None,
        ),
        (
            tls(PortKind::Sniff),
            b"SSH-2.0-OpenSSH_9.2\r\n",
            DenialReason::UnknownProtocol,
            None,
        ),
        (None, b"anything", DenialReason::UnlistedPort, None),
    ] {
        let bed = bed(echo().await, port).await;
        let mut client = bed.client().await;
        client.send(bytes).await;
        assert_eq!(client.take(bytes.len()).await.unwrap(), bytes, "{reason}");
        assert_eq!(told(&bed).await, (reason, name));
    }
}

#[tokio::test]
async fn what_is_no_hello_is_relayed_on_a_port_of_tls() {
    let bed = bed(echo().await, Some(tls_port(PortKind::Tls, HOST, &[]))).await;
    let mut client = bed.client().await;
    client.send(b"no hello").await;
    assert_eq!(client.take(8).await.unwrap(), b"no hello");
    assert!(matches!(told(&bed).await.0, DenialReason::BadHello(_)));
}

#[tokio::test]
async fn a_rule_that_goes_ends_nothing() {
    let origin = echo().await;
    let bed = bed(origin, None).await;
    let mut client = bed.client().await;
    client.send(b"a").await;
    assert_eq!(client.take(1).await.unwrap(), b"a");
    bed.put(auditing(Some((origin.port(), http_port(HOST, &[], None)))));
    bed.put(auditing(None));
    client.send(b"b").await;
    assert_eq!(client.take(1).await.unwrap(), b"b");
    // The audit ends, and with it the flows that it allowed.
    bed.change(PortRoutes::default());
    assert!(client.rest().await.is_empty());
    assert_eq!(told(&bed).await.0, DenialReason::UnlistedPort);
    assert_eq!(bed.denial().await, DenialReason::Removed);
}
