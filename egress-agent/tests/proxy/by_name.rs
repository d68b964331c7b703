//! `resolution: DYNAMIC_DNS`: the proxy dials the addresses of the name that the client asks for.

use crate::raw::{Raw, get, raw_origin};
use crate::support::{Bed, POLICY, destination};
use crate::tls::real_hello;
use crate::yaml::{object, routes};
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::{PortRoutes, RouteTable};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

fn rules(port: u16, protocol: &str, more: &str) -> RouteTable {
    let entry = object(
        "ServiceEntry",
        &format!(
            "{{hosts: ['*.wild.example'], resolution: DYNAMIC_DNS, ports: [{{number: 80, name: p, \
             protocol: {protocol}, targetPort: {port}}}]}}"
        ),
    );
    routes(&format!("{entry}---\n{more}"), more)
}

async fn bed(origin: SocketAddr, protocol: &str, more: &str) -> Bed {
    // An address that leads nowhere: what the client dialled does not matter.
    let from = destination("192.0.2.99:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    bed.put(rules(origin.port(), protocol, more));
    know(&bed, "a.wild.example", &["127.0.0.1"]);
    bed
}

fn know(bed: &Bed, name: &str, addresses: &[&str]) {
    let addresses = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    let mut known = bed.names.known.lock().unwrap();
    known.insert(name.to_owned(), addresses);
}

async fn says_hello() -> SocketAddr {
    raw_origin(|_, mut raw: Raw| async move {
        while raw.message().await.is_some() {
            raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")
                .await;
        }
    })
    .await
}

#[tokio::test]
async fn a_request_goes_to_the_addresses_of_its_host_which_are_asked_for_once() {
    let bed = bed(says_hello().await, "HTTP", "").await;
    for host in ["a.wild.example", "A.Wild.Example:80", "a.wild.example."] {
        let reply = bed.client().await.ask(&get(host, "/")).await;
        assert_eq!((reply.status(), reply.text()), (200, "hello"), "{host}");
    }
    assert_eq!(bed.names.asked.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(
        bed.client()
            .await
            .ask(&get("a.wild.example", "/"))
            .await
            .status(),
        200
    );
    assert_eq!(
        bed.names.asked.load(Ordering::SeqCst),
        2,
        "its time is over"
    );
}

#[tokio::test]
async fn what_is_not_listed_is_not_asked_for_and_a_name_without_addresses_is_envoys_503() {
    let bed = bed(says_hello().await, "HTTP", "").await;
    for host in [
        "wild.example",
        "a.wild.example.org",
        "127.0.0.1",
        "other.example",
    ] {
        let reply = bed.client().await.ask(&get(host, "/")).await;
        assert_eq!(reply.status(), 502, "{host}");
        assert_eq!(bed.denial().await, DenialReason::UnlistedHost);
    }
    assert_eq!(bed.names.asked.load(Ordering::SeqCst), 0);
    while bed.records.lock().await.try_recv().is_ok() {}
    let reply = bed.client().await.ask(&get("b.wild.example", "/")).await;
    assert_eq!(
        (reply.status(), reply.text()),
        (503, "DNS resolution failure")
    );
    assert_eq!(bed.record().await.flags.to_string(), "DF");
    let told = bed.denial().await.to_string();
    assert_eq!(told, "b.wild.example cannot be resolved: no such name");
}

#[tokio::test]
async fn a_dead_address_of_the_name_does_not_matter() {
    let origin = says_hello().await;
    let bed = bed(origin, "HTTP", "").await;
    // Nothing listens on the first.
    know(&bed, "two.wild.example", &["127.0.0.2", "127.0.0.1"]);
    let reply = bed.client().await.ask(&get("two.wild.example", "/")).await;
    assert_eq!(reply.status(), 200);
}

#[tokio::test]
async fn tls_goes_to_the_addresses_of_its_server_name() {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        let head = raw.take(3).await.unwrap();
        assert_eq!(head[..2], [22, 3]);
        raw.send(b"tls").await;
        raw.rest().await;
    })
    .await;
    let bed = bed(origin, "TLS", "").await;
    let mut client = bed.client().await;
    client.send(&real_hello("a.wild.example")).await;
    assert_eq!(client.take(3).await.unwrap(), b"tls");
    let mut unknown = bed.client().await;
    unknown.send(&real_hello("b.wild.example")).await;
    assert!(unknown.rest().await.is_empty());
    assert_eq!(bed.denial().await.code(), "unresolved");
    let mut unlisted = bed.client().await;
    unlisted.send(&real_hello("b.example")).await;
    assert!(unlisted.rest().await.is_empty());
    assert_eq!(bed.denial().await, DenialReason::UnlistedName);
}

#[tokio::test]
async fn the_permission_ends_with_its_rule() {
    let origin = says_hello().await;
    let bed = bed(origin, "HTTP", "").await;
    let mut client = bed.client().await;
    assert_eq!(client.ask(&get("a.wild.example", "/")).await.status(), 200);
    let mut none = RouteTable::clone(&rules(origin.port(), "HTTP", ""));
    none.policies.insert(POLICY, Arc::default());
    none.policies
        .values_mut()
        .for_each(|policy| *policy = Arc::default());
    bed.put(none);
    assert!(client.rest().await.is_empty());
    assert_eq!(bed.denial().await, DenialReason::Removed);
}
