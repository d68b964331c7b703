//! A connection counts for its workload's share of the proxy, whichever of the workload's cgroups it belongs to.

use crate::raw::*;
use crate::support::*;
use egress_agent::proxy::{DenialReason, Limits, Origin};
use egress_core::routing::{PortKind, PortRoutes, RouteTable};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const POD: CgroupId = CgroupId(5);
const NEIGHBOUR: CgroupId = CgroupId(6);
const SLICE: CgroupId = CgroupId(1);

/// A flow of a cgroup that a workload made, below its own.
fn made(cgroup: CgroupId, workload: CgroupId) -> Origin {
    Origin {
        cgroup,
        owners: vec![cgroup, workload, SLICE],
        sharer: workload,
        ..destination("192.0.2.1:80")
    }
}

/// Puts the routes of `port` in force, for these owners and for the root's default policy.
fn named(bed: &Bed, port: PortRoutes, owners: &[CgroupId]) {
    let default = table(port);
    let policies = default.policies.get(&POLICY).map(Arc::clone).unwrap();
    bed.put(RouteTable {
        policies: [(PolicyId(0), Arc::clone(&policies)), (POLICY, policies)].into(),
        owners: Arc::new(owners.iter().map(|id| (*id, POLICY)).collect()),
        ..RouteTable::default()
    });
}

async fn as_flow(bed: &Bed, origin: Origin) -> Raw {
    bed.origin.store(Arc::new(Some(origin)));
    bed.client().await
}

async fn served(client: &mut Raw) -> bool {
    client.send(get(HOST, "/").as_bytes()).await;
    matches!(client.message().await, Some(reply) if reply.status() == 200)
}

async fn ok_origin() -> std::net::SocketAddr {
    fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await
}

/// With an entry for the workload, and with only the root's default policy.
const OWNERS: [&[CgroupId]; 2] = [&[POD, NEIGHBOUR], &[]];

#[tokio::test]
async fn two_cgroups_of_one_workload_have_one_share_of_connections_and_a_neighbour_its_own() {
    for owners in OWNERS {
        let limits = Limits {
            connections_each: 2,
            ..Limits::default()
        };
        let port = http_port(HOST, &[ok_origin().await], None);
        let bed = Bed::with(port.clone(), None, limits).await;
        named(&bed, port, owners);
        let mut held = Vec::new();
        for cgroup in [10, 11] {
            let mut client = as_flow(&bed, made(CgroupId(cgroup), POD)).await;
            assert!(served(&mut client).await, "{owners:?}");
            held.push(client);
        }
        let mut third = as_flow(&bed, made(CgroupId(12), POD)).await;
        assert!(!served(&mut third).await, "{owners:?}");
        assert_eq!(bed.denial().await, DenialReason::ConnectionLimit);
        let mut neighbour = as_flow(&bed, made(CgroupId(20), NEIGHBOUR)).await;
        assert!(served(&mut neighbour).await, "{owners:?}");
    }
}

/// A proxy and a held connection that uses up its workload's share.
async fn full(kind: PortKind) -> (Bed, Raw) {
    let limits = Limits {
        connections_each: 1,
        telling: 4,
        ..Limits::default()
    };
    let origin = ok_origin().await;
    let port = PortRoutes {
        kind,
        tls: tls_port(kind, "tls.example", &[origin]).tls,
        ..http_port(HOST, &[origin], None)
    };
    let bed = Bed::with(port.clone(), None, limits).await;
    named(&bed, port, &[POD]);
    let mut held = as_flow(&bed, made(CgroupId(10), POD)).await;
    assert!(served(&mut held).await);
    assert_eq!(bed.record().await.response_code, 200);
    (bed, held)
}

#[tokio::test]
async fn an_http_client_beyond_its_share_is_told_503_with_the_reason() {
    for kind in [PortKind::Http, PortKind::Sniff] {
        let (bed, _held) = full(kind).await;
        // More bytes than one read takes, because a close with unread bytes would reset the connection.
        let short = get(HOST, "/");
        let long = format!("{}\r\nx: {}\r\n\r\n", short.trim_end(), "y".repeat(50_000));
        for request in [short, long] {
            let mut next = as_flow(&bed, made(CgroupId(11), POD)).await;
            next.send(request.as_bytes()).await;
            let reply = next.message().await.expect("a reply");
            assert_eq!(reply.status(), 503, "{kind:?}");
            assert_eq!(reply.header("connection"), Some("close"));
            let text = "reset reason: overflow, transport failure reason: too many open connections \
                        of this workload";
            assert!(reply.text().ends_with(text), "{}", reply.text());
            assert_eq!(bed.denial().await, DenialReason::ConnectionLimit);
            let record = bed.record().await;
            assert_eq!(record.response_code, 503);
            assert_eq!(record.flags.to_string(), "UO");
            assert!(next.rest().await.is_empty());
        }
    }
}

#[tokio::test]
async fn a_tls_client_beyond_its_share_is_closed() {
    let (bed, _held) = full(PortKind::Sniff).await;
    let mut next = as_flow(&bed, made(CgroupId(11), POD)).await;
    next.send(&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]).await;
    assert!(next.rest().await.is_empty());
    assert_eq!(bed.denial().await, DenialReason::ConnectionLimit);
}

#[tokio::test]
async fn telling_clients_beyond_their_share_takes_few_places_for_a_short_time() {
    let (bed, _held) = full(PortKind::Http).await;
    let start = Instant::now();
    // It sends nothing, and so keeps the only place of its workload.
    let mut silent = as_flow(&bed, made(CgroupId(11), POD)).await;
    assert_eq!(bed.denial().await, DenialReason::ConnectionLimit);
    for _ in 0..20 {
        let mut next = as_flow(&bed, made(CgroupId(12), POD)).await;
        // It gets an answer and is closed before it sends a request.
        assert_eq!(next.message().await.expect("a reply").status(), 503);
        assert!(next.rest().await.is_empty());
    }
    assert!(silent.rest().await.is_empty(), "its time is over");
    assert!(start.elapsed() < PATIENCE / 2, "{:?}", start.elapsed());
    let mut neighbour = as_flow(&bed, made(CgroupId(20), NEIGHBOUR)).await;
    assert!(served(&mut neighbour).await);
}

#[tokio::test]
async fn two_cgroups_of_one_workload_have_one_share_of_descriptors_and_a_neighbour_its_own() {
    for owners in OWNERS {
        // Two clients and one upstream connection.
        let limits = Limits {
            descriptors_each: 3,
            ..Limits::default()
        };
        let port = http_port(HOST, &[ok_origin().await], None);
        let bed = Bed::with(port.clone(), None, limits).await;
        named(&bed, port, owners);
        let mut first = as_flow(&bed, made(CgroupId(10), POD)).await;
        assert!(served(&mut first).await, "{owners:?}");
        let mut second = as_flow(&bed, made(CgroupId(11), POD)).await;
        assert!(!served(&mut second).await, "no upstream: {owners:?}");
        assert_eq!(bed.denial().await, DenialReason::ConnectionLimit);
        let mut neighbour = as_flow(&bed, made(CgroupId(20), NEIGHBOUR)).await;
        assert!(served(&mut neighbour).await, "{owners:?}");
    }
}

#[tokio::test]
async fn two_cgroups_of_one_workload_have_one_share_of_unfinished_heads_and_a_neighbour_its_own() {
    for owners in OWNERS {
        let limits = Limits {
            // A quarter is two of these heads.
            memory: 4 * 38 * 4096,
            ..Limits::default()
        };
        let port = http_port(HOST, &[ok_origin().await], None);
        let bed = Bed::with(port.clone(), None, limits).await;
        named(&bed, port, owners);
        let half = format!(
            "GET / HTTP/1.1\r\nHost: {HOST}\r\nx: {}",
            "y".repeat(57_000)
        );
        let mut held = Vec::new();
        for cgroup in [10, 11, 12] {
            let mut client = as_flow(&bed, made(CgroupId(cgroup), POD)).await;
            client.send(half.as_bytes()).await;
            held.push(client);
        }
        // One of the three, which may be any, finds no room.
        assert_eq!(bed.denial().await, DenialReason::MemoryLimit, "{owners:?}");
        let mut neighbour = as_flow(&bed, made(CgroupId(20), NEIGHBOUR)).await;
        neighbour.send(half.as_bytes()).await;
        let early = timeout(Duration::from_millis(300), neighbour.message()).await;
        assert!(early.is_err(), "{early:?} {owners:?}");
        neighbour.send(b"\r\n\r\n").await;
        assert_eq!(neighbour.message().await.unwrap().status(), 200);
    }
}
