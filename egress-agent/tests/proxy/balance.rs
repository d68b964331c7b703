//! Shares of endpoints and of route weights, for every kind of flow and any number of endpoints.

use crate::raw::*;
use crate::support::*;
use crate::tls::real_hello;
use egress_core::routing::{Cluster, PortKind, PortRoutes, Split, TcpRoute, TlsRoute, VirtualHost};
use egress_core::traffic::{Balance, ClusterId, ClusterPolicy, HashOn};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

/// An origin that sends its number: at once to a client that waits, else in an HTTP response.
async fn origin(name: usize) -> SocketAddr {
    raw_origin(move |_, mut raw| async move {
        while let Some(first) = raw.take(1).await {
            if first != b"G" {
                raw.send(format!("{name}\n").as_bytes()).await;
                continue;
            }
            raw.head().await;
            let reply = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{name}");
            raw.send(reply.as_bytes()).await;
        }
    })
    .await
}

fn service(endpoints: &[SocketAddr]) -> Arc<Cluster> {
    named(HOST, endpoints)
}

fn named(host: &str, endpoints: &[SocketAddr]) -> Arc<Cluster> {
    Arc::new(Cluster {
        id: ClusterId::new(host, PORT),
        endpoints: endpoints.to_vec(),
        balanced: true,
        ..Cluster::default()
    })
}

fn by_host(to: Split) -> PortRoutes {
    let route = forwarding(to);
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

fn by_sni(to: Split) -> PortRoutes {
    PortRoutes {
        kind: PortKind::Tls,
        tls: vec![Arc::new(TlsRoute {
            sni_hosts: vec![HOST.into()],
            nets: vec![],
            to,
        })]
        .into(),
        ..PortRoutes::default()
    }
}

fn by_address(to: Split) -> PortRoutes {
    PortRoutes {
        tcp: vec![Arc::new(TcpRoute {
            nets: vec!["192.0.2.1/32".parse().unwrap()],
            sniffed: false,
            to,
        })]
        .into(),
        ..PortRoutes::default()
    }
}

async fn answered_by(client: &mut Raw, bytes: &[u8]) -> usize {
    client.send(bytes).await;
    let name = if bytes.starts_with(b"GET") {
        client.message().await.unwrap().body
    } else {
        client.take(1).await.unwrap()
    };
    std::str::from_utf8(&name).unwrap().parse().unwrap()
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Http,
    KeepAlive,
    Tls,
    Tcp,
}

/// How often each of the endpoints served one of `flows`.
async fn shares(kind: Kind, to: impl Fn() -> Split, flows: usize) -> BTreeMap<usize, usize> {
    let (port, bytes) = match kind {
        Kind::Http | Kind::KeepAlive => (by_host(to()), get(HOST, "/").into_bytes()),
        Kind::Tls => (by_sni(to()), real_hello(HOST)),
        Kind::Tcp => (by_address(to()), b"SSH".to_vec()),
    };
    let bed = Bed::new(port).await;
    let mut counts = BTreeMap::new();
    let mut client = bed.client().await;
    for _ in 0..flows {
        *counts
            .entry(answered_by(&mut client, &bytes).await)
            .or_default() += 1;
        if !matches!(kind, Kind::KeepAlive) {
            client = bed.client().await;
        }
    }
    counts
}

#[tokio::test]
async fn every_endpoint_of_a_service_gets_the_same_share() {
    for number in 1..=6 {
        let mut endpoints = Vec::new();
        for name in 0..number {
            endpoints.push(origin(name).await);
        }
        for kind in [Kind::Http, Kind::KeepAlive, Kind::Tls, Kind::Tcp] {
            let cluster = service(&endpoints);
            let counts = shares(kind, || Split::one(Arc::clone(&cluster)), number * 6).await;
            let even: BTreeMap<_, _> = (0..number).map(|name| (name, 6)).collect();
            assert_eq!(counts, even, "{kind:?}, {number} endpoints");
        }
    }
}

#[tokio::test]
async fn weights_hold_and_every_endpoint_behind_them_gets_its_share() {
    let mut all = Vec::new();
    for name in 0..4 {
        all.push(origin(name).await);
    }
    let (one, three) = all.split_at(2);
    for kind in [Kind::Http, Kind::KeepAlive, Kind::Tls, Kind::Tcp] {
        for weights in [[50, 50], [25, 75], [90, 10]] {
            let to = || {
                let shares = vec![(weights[0], service(one)), (weights[1], service(three))];
                Split::from(shares)
            };
            let counts = shares(kind, to, 120).await;
            for (name, count) in &counts {
                let fair = weights[name / 2] as usize * 120 / 100 / 2;
                assert!(count.abs_diff(fair) <= 3, "{kind:?} {weights:?} {counts:?}");
            }
            assert_eq!(counts.len(), 4, "{kind:?} {weights:?} {counts:?}");
        }
    }
}

#[tokio::test]
async fn flows_of_one_service_take_no_turns_from_another() {
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for name in 0..2 {
        a.push(origin(name).await);
        b.push(origin(name).await);
    }
    let mut port = by_host(Split::one(service(&a)));
    let other = by_host(Split::one(named("b.example", &b)));
    let mut hosts = entries(&port.hosts);
    hosts.extend(other.hosts.iter().map(|(_, host)| {
        Arc::new(VirtualHost {
            host: "b.example".into(),
            ..VirtualHost::clone(host)
        })
    }));
    port.hosts = hosts.into();
    let bed = Bed::new(port).await;
    let (mut first, mut second) = (bed.client().await, bed.client().await);
    let mut counts = BTreeMap::<(char, usize), usize>::new();
    for _ in 0..12 {
        let at = answered_by(&mut first, get(HOST, "/").as_bytes()).await;
        *counts.entry(('a', at)).or_default() += 1;
        let at = answered_by(&mut second, get("b.example", "/").as_bytes()).await;
        *counts.entry(('b', at)).or_default() += 1;
    }
    assert_eq!(counts.into_values().collect::<Vec<_>>(), [6, 6, 6, 6]);
}

#[tokio::test]
async fn flows_of_every_kind_from_one_address_stay_with_one_endpoint() {
    let mut all = Vec::new();
    for name in 0..4 {
        all.push(origin(name).await);
    }
    let hashed = || {
        Split::one(Arc::new(Cluster {
            policy: Arc::new(ClusterPolicy {
                balance: Some(Balance::Hash(HashOn::SourceIp)),
                ..ClusterPolicy::default()
            }),
            ..Cluster::clone(&service(&all))
        }))
    };
    let mut used = Vec::new();
    for kind in [Kind::Http, Kind::Tls, Kind::Tcp] {
        let counts = shares(kind, hashed, 12).await;
        assert_eq!(counts.len(), 1, "{kind:?}: {counts:?}");
        used.extend(counts.into_keys());
    }
    used.dedup();
    assert_eq!(used.len(), 1, "{used:?}");
}
