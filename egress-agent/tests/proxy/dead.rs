//! Addresses that do not answer: what they cost the requests and connections of a cluster, and that an address which is
//! all there is, is still tried.

use crate::raw::{Raw, get, raw_origin, raw_origin_on, refused_address};
use crate::support::{Bed, HOST, PATIENCE, cluster, split_port, tcp_port_to};
use egress_core::routing::{Cluster, PortKind, PortRoutes, Split};
use egress_core::traffic::{
    Balance, ClusterPolicy, ConnectionPool, RetryOn, RetryPolicy, RoutePolicy,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

/// A listener whose queue is full: the kernel drops each further SYN.
struct Dead {
    address: SocketAddr,
    listener: TcpListener,
    kept: Vec<TcpStream>,
}

async fn dead(ip: &str) -> Dead {
    let ip: std::net::IpAddr = ip.parse().unwrap();
    let socket = if ip.is_ipv4() {
        TcpSocket::new_v4().unwrap()
    } else {
        TcpSocket::new_v6().unwrap()
    };
    socket.bind((ip, 0).into()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut kept = Vec::new();
    let patience = Duration::from_millis(200);
    while let Ok(Ok(stream)) = timeout(patience, TcpStream::connect(address)).await {
        kept.push(stream);
    }
    Dead {
        address,
        listener,
        kept,
    }
}

async fn answers(raw: Raw) {
    let mut raw = raw;
    while raw.message().await.is_some() {
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
    }
}

async fn live() -> SocketAddr {
    raw_origin(|_, raw: Raw| answers(raw)).await
}

/// Endpoints that are tried in this order.
fn service(endpoints: &[SocketAddr], named: bool, limit: Duration) -> Cluster {
    Cluster {
        named,
        // The first one again and again, unless it is known to be dead.
        balanced: true,
        policy: Arc::new(ClusterPolicy {
            balance: Some(Balance::RoundRobin),
            pool: ConnectionPool {
                connect_timeout: Some(limit),
                ..ConnectionPool::default()
            },
            ..ClusterPolicy::default()
        }),
        ..Cluster::clone(&cluster(HOST, endpoints))
    }
}

fn http(cluster: Cluster) -> PortRoutes {
    let retries = RetryPolicy {
        attempts: 2,
        on: RetryOn::parse("connect-failure"),
        ..RetryPolicy::default()
    };
    let policy = RoutePolicy {
        retries,
        ..RoutePolicy::default()
    };
    split_port(HOST, Split::one(Arc::new(cluster)), policy)
}

fn tcp(cluster: Cluster) -> PortRoutes {
    PortRoutes {
        kind: PortKind::Http,
        ..tcp_port_to(cluster)
    }
}

/// The time of a request on a connection of its own, its status and the attempts.
async fn asked(bed: &Bed) -> (Duration, u16, u32) {
    let mut client = bed.client().await;
    let begun = Instant::now();
    let status = client.ask(&get(HOST, "/")).await.status();
    let took = begun.elapsed();
    (took, status, bed.record().await.attempts)
}

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(250);

#[tokio::test]
async fn a_dead_address_of_a_name_costs_one_request_a_moment() {
    for ip in ["127.0.0.1", "::1"] {
        let dead = dead(ip).await;
        let bed = Bed::new(http(service(&[dead.address, live().await], true, LONG))).await;
        let mut slow = 0;
        for _ in 0..10 {
            let (took, status, attempts) = asked(&bed).await;
            assert_eq!((status, attempts), (200, 1));
            assert!(took < LONG / 2, "{took:?}");
            slow += usize::from(took >= SHORT);
        }
        assert_eq!(slow, 1, "one request waited for the second address");
    }
}

#[tokio::test]
async fn a_dead_listed_endpoint_costs_one_attempt_and_not_one_of_each_request() {
    let dead = dead("127.0.0.1").await;
    let bed = Bed::new(http(service(&[dead.address, live().await], false, SHORT))).await;
    let mut attempts = Vec::new();
    for _ in 0..10 {
        let (_, status, tries) = asked(&bed).await;
        assert_eq!(status, 200);
        attempts.push(tries);
    }
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
}

#[tokio::test]
async fn requests_that_come_while_an_address_is_slow_prefer_the_others() {
    let dead = dead("127.0.0.1").await;
    let live = live().await;
    let bed = Bed::new(http(service(&[dead.address, live], false, LONG))).await;
    // One of the first two waits for the dead one.
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut client = bed.client().await;
        client.send(get(HOST, "/").as_bytes()).await;
        waiting.push(client);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    for _ in 0..6 {
        let mut client = bed.client().await;
        let begun = Instant::now();
        assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
        assert!(begun.elapsed() < SHORT * 4, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn an_address_that_is_all_there_is_is_tried_each_time_and_serves_once_it_is_back() {
    let dead = dead("127.0.0.1").await;
    let other = refused_address();
    let bed = Bed::new(http(service(&[dead.address, other], true, SHORT))).await;
    for _ in 0..2 {
        let (_, status, attempts) = asked(&bed).await;
        assert_eq!((status, attempts), (503, 3));
    }
    // Its queue has room again.
    let Dead { listener, kept, .. } = dead;
    drop(kept);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answers(Raw::new(stream)));
        }
    });
    let (_, status, _) = timeout(PATIENCE, asked(&bed)).await.unwrap();
    assert_eq!(status, 200);
}

#[tokio::test]
async fn the_further_addresses_of_a_logical_host_are_one_attempt() {
    let refuses = refused_address();
    let other = raw_origin_on("[::1]:0", |_, raw: Raw| answers(raw)).await;
    let cluster = Cluster {
        further: vec![refuses, other],
        ..service(&[refused_address()], true, LONG)
    };
    let bed = Bed::new(http(cluster)).await;
    let (_, status, attempts) = asked(&bed).await;
    assert_eq!((status, attempts), (200, 1));
}

#[tokio::test]
async fn a_connection_without_a_name_takes_the_address_that_answers_first() {
    let dead = dead("127.0.0.1").await;
    let speaks = raw_origin(|_, mut raw: Raw| async move {
        raw.send(b"hello").await;
        raw.rest().await;
    })
    .await;
    let bed = Bed::new(tcp(service(&[dead.address, speaks], true, LONG))).await;
    let mut slow = 0;
    for _ in 0..6 {
        let begun = Instant::now();
        let mut client = bed.client().await;
        client.send(b"SSH-2.0\r\n").await;
        assert_eq!(client.take(5).await.unwrap(), b"hello");
        slow += usize::from(begun.elapsed() >= SHORT);
    }
    assert_eq!(slow, 1);
}
