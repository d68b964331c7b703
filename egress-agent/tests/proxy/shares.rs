//! A connection takes its workload's share of the proxy, whichever of the workload's cgroups it
//! belongs to.

use crate::support::*;
use egress_agent::proxy::{Limits, Origin, RefusalReason};
use egress_core::routing::RouteTable;
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

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

/// What the bed's origin is asked for, under these owners.
fn named(bed: &Bed, port: egress_core::routing::PortRoutes, owners: &[CgroupId]) {
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

/// Where the workload has an entry of its own, and where the root's default policy is all there is.
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
        assert_eq!(bed.refusal().await, RefusalReason::ConnectionLimit);
        let mut neighbour = as_flow(&bed, made(CgroupId(20), NEIGHBOUR)).await;
        assert!(served(&mut neighbour).await, "{owners:?}");
    }
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
        assert_eq!(bed.refusal().await, RefusalReason::ConnectionLimit);
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
        // One of the three finds no room, whichever is last.
        assert_eq!(
            bed.refusal().await,
            RefusalReason::MemoryLimit,
            "{owners:?}"
        );
        let mut neighbour = as_flow(&bed, made(CgroupId(20), NEIGHBOUR)).await;
        neighbour.send(half.as_bytes()).await;
        let early = timeout(Duration::from_millis(300), neighbour.message()).await;
        assert!(early.is_err(), "{early:?} {owners:?}");
        neighbour.send(b"\r\n\r\n").await;
        assert_eq!(neighbour.message().await.unwrap().status(), 200);
    }
}
