//! `connectionPool`: what a workload may have open to a cluster, how long a connection lives, and the reply beyond a
//! limit.

use crate::raw::{Raw, get, raw_origin};
use crate::support::{Bed, HOST, OWNER, POLICY, PORT, cluster, destination, split_port, table};
use egress_agent::proxy::{DenialReason, Limits, Origin};
use egress_core::routing::{Cluster, PolicyRoutes, PortRoutes, Split, TcpRoute};
use egress_core::traffic::{
    ClusterPolicy, ConnectionPool, RetryLimit, RetryOn, RetryPolicy, RoutePolicy,
};
use egress_ebpf::ids::CgroupId;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, mpsc};

fn limited(endpoints: &[SocketAddr], pool: ConnectionPool) -> Split {
    Split::one(Arc::new(Cluster {
        policy: Arc::new(ClusterPolicy {
            pool,
            ..ClusterPolicy::default()
        }),
        ..Cluster::clone(&cluster(HOST, endpoints))
    }))
}

fn http(endpoints: &[SocketAddr], pool: ConnectionPool) -> PortRoutes {
    split_port(HOST, limited(endpoints, pool), RoutePolicy::default())
}

fn tcp(endpoint: SocketAddr, pool: ConnectionPool) -> PortRoutes {
    PortRoutes {
        tcp: vec![Arc::new(TcpRoute {
            nets: vec!["192.0.2.1/32".parse().unwrap()],
            sniffed: false,
            to: limited(&[endpoint], pool),
        })]
        .into(),
        ..PortRoutes::default()
    }
}

/// An origin that answers each request with the number of its connection, as soon as it has a permit.
struct Slow {
    addr: SocketAddr,
    go: Arc<Semaphore>,
    asked: mpsc::UnboundedReceiver<usize>,
    open: Arc<AtomicUsize>,
}

async fn slow(permits: usize) -> Slow {
    let go = Arc::new(Semaphore::new(permits));
    let (tell, asked) = mpsc::unbounded_channel();
    let open = Arc::new(AtomicUsize::new(0));
    let (gate, count) = (Arc::clone(&go), Arc::clone(&open));
    let addr = raw_origin(move |number, mut raw: Raw| {
        let (gate, tell, count) = (Arc::clone(&gate), tell.clone(), Arc::clone(&count));
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            while raw.message().await.is_some() {
                tell.send(number).ok();
                gate.acquire().await.unwrap().forget();
                let text = number.to_string();
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
                raw.send(head.as_bytes()).await;
                raw.send(text.as_bytes()).await;
            }
            count.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    Slow {
        addr,
        go,
        asked,
        open,
    }
}

const MANY: usize = Semaphore::MAX_PERMITS / 2;

#[tokio::test]
async fn a_request_beyond_the_limits_gets_envoys_overflow() {
    let mut origin = slow(0).await;
    let pool = ConnectionPool {
        connections: Some(1),
        pending: Some(1),
        ..ConnectionPool::default()
    };
    let bed = Bed::new(http(&[origin.addr], pool)).await;
    let mut first = bed.client().await;
    first.send(get(HOST, "/").as_bytes()).await;
    assert_eq!(origin.asked.recv().await, Some(0));
    let mut second = bed.client().await;
    second.send(get(HOST, "/").as_bytes()).await;
    // The second waits for the connection; the order of the two is not known, but only one is over.
    let mut third = bed.client().await;
    third.send(get(HOST, "/").as_bytes()).await;
    let (over, waits) = tokio::select! {
        reply = second.message() => (reply.unwrap(), &mut third),
        reply = third.message() => (reply.unwrap(), &mut second),
    };
    assert_eq!(over.status(), 503);
    assert_eq!(over.header("x-envoy-overloaded"), Some("true"));
    assert_eq!(
        over.text(),
        "upstream connect error or disconnect/reset before headers. reset reason: overflow"
    );
    assert_eq!(bed.record().await.flags.to_string(), "UO");
    assert_eq!(
        bed.denial().await,
        DenialReason::ConnectionPool(HOST.into())
    );
    origin.go.add_permits(2);
    assert_eq!(first.message().await.unwrap().text(), "0");
    assert_eq!(waits.message().await.unwrap().text(), "1");
    assert_eq!(origin.open.load(Ordering::SeqCst), 1, "one at a time");
}

#[tokio::test]
async fn an_idle_connection_of_another_client_gives_way() {
    let origin = slow(MANY).await;
    let pool = ConnectionPool {
        connections: Some(1),
        ..ConnectionPool::default()
    };
    let bed = Bed::new(http(&[origin.addr], pool)).await;
    let (mut first, mut second) = (bed.client().await, bed.client().await);
    for (number, client) in [&mut first, &mut second].into_iter().enumerate() {
        assert_eq!(client.ask(&get(HOST, "/")).await.text(), number.to_string());
    }
    // Its own was taken away, so it gets another.
    assert_eq!(first.ask(&get(HOST, "/")).await.text(), "2");
}

#[tokio::test]
async fn workloads_do_not_count_each_others_connections() {
    let mut origin = slow(0).await;
    let pool = ConnectionPool {
        requests: Some(1),
        ..ConnectionPool::default()
    };
    let other = CgroupId(OWNER.0 + 1);
    let bed = Bed::new(PortRoutes::default()).await;
    let port = http(&[origin.addr], pool);
    let mut routes = table(port.clone());
    routes.owners = Arc::new([(OWNER, POLICY), (other, POLICY)].into());
    routes.policies.insert(
        POLICY,
        Arc::new(PolicyRoutes {
            ports: [(PORT, Arc::new(port))].into(),
            ..PolicyRoutes::default()
        }),
    );
    bed.put(routes);
    let mut own = bed.client().await;
    own.send(get(HOST, "/").as_bytes()).await;
    assert_eq!(origin.asked.recv().await, Some(0));
    assert_eq!(bed.client().await.ask(&get(HOST, "/")).await.status(), 503);
    bed.origin.store(Arc::new(Some(Origin {
        cgroup: other,
        owners: vec![other],
        sharer: other,
        ..destination("192.0.2.1:80")
    })));
    let mut neighbour = bed.client().await;
    neighbour.send(get(HOST, "/").as_bytes()).await;
    origin.asked.recv().await.unwrap();
    origin.go.add_permits(2);
    assert_eq!(neighbour.message().await.unwrap().status(), 200);
    assert_eq!(own.message().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_connection_serves_so_many_requests_and_lives_so_long() {
    let life = Duration::from_millis(200);
    for (pool, numbers) in [
        (
            ConnectionPool {
                requests_per_connection: Some(2),
                ..ConnectionPool::default()
            },
            ["0", "0", "1", "1", "2"],
        ),
        (
            ConnectionPool {
                requests_per_connection: Some(1),
                ..ConnectionPool::default()
            },
            ["0", "1", "2", "3", "4"],
        ),
    ] {
        let origin = slow(MANY).await;
        let bed = Bed::new(http(&[origin.addr], pool)).await;
        let mut client = bed.client().await;
        for number in numbers {
            assert_eq!(client.ask(&get(HOST, "/")).await.text(), number);
        }
    }
    for pool in [
        ConnectionPool {
            max_connection_duration: Some(life),
            ..ConnectionPool::default()
        },
        ConnectionPool {
            http_idle_timeout: Some(life),
            ..ConnectionPool::default()
        },
    ] {
        let (ended, mut seen) = mpsc::unbounded_channel();
        let addr = raw_origin(move |_, mut raw: Raw| {
            let ended = ended.clone();
            async move {
                let begun = Instant::now();
                raw.message().await;
                raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await;
                raw.rest().await;
                ended.send(begun.elapsed()).ok();
            }
        })
        .await;
        let bed = Bed::new(http(&[addr], pool)).await;
        let mut client = bed.client().await;
        assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
        let lived = seen.recv().await.unwrap();
        assert!(lived >= life / 2 && lived < 20 * life, "{lived:?}");
        assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
    }
}

#[tokio::test]
async fn retries_beyond_the_limit_are_not_made() {
    let answered = raw_origin(|_, mut raw: Raw| async move {
        while raw.message().await.is_some() {
            raw.send(b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    // A budget of nothing with at least one: a single request may retry.
    for (most, attempts, flags) in [(1, 3, "URX"), (0, 1, "UO")] {
        let pool = ConnectionPool {
            retries: Some(RetryLimit::Count(most)),
            ..ConnectionPool::default()
        };
        let policy = RoutePolicy {
            retries: RetryPolicy {
                on: RetryOn::parse("5xx"),
                ..RetryPolicy::default()
            },
            ..RoutePolicy::default()
        };
        let bed = Bed::new(split_port(HOST, limited(&[answered], pool), policy)).await;
        assert_eq!(bed.client().await.ask(&get(HOST, "/")).await.status(), 503);
        let record = bed.record().await;
        let seen = (record.attempts, record.flags.to_string());
        assert_eq!(seen, (attempts, flags.to_owned()));
    }
}

#[tokio::test]
async fn a_tcp_connection_beyond_the_limit_is_closed_and_the_others_end_in_time() {
    let echo = raw_origin(|_, mut raw: Raw| async move {
        while let Some(byte) = raw.take(1).await {
            raw.send(&byte).await;
        }
    })
    .await;
    let pool = ConnectionPool {
        connections: Some(1),
        ..ConnectionPool::default()
    };
    let bed = Bed::new(tcp(echo, pool)).await;
    let mut first = bed.client().await;
    first.send(b"SSH").await;
    assert_eq!(first.take(3).await.unwrap(), b"SSH");
    let mut second = bed.client().await;
    second.send(b"SSH").await;
    assert!(second.rest().await.is_empty());
    assert_eq!(bed.record().await.flags.to_string(), "UO");
    assert_eq!(
        bed.denial().await,
        DenialReason::ConnectionPool(HOST.into())
    );
    drop(first);
    bed.record().await;
    let mut third = bed.client().await;
    third.send(b"SSH").await;
    assert_eq!(third.take(3).await.unwrap(), b"SSH");
    let short = Duration::from_millis(300);
    for (pool, flags) in [
        (
            ConnectionPool {
                tcp_idle_timeout: Some(short),
                ..ConnectionPool::default()
            },
            "-",
        ),
        (
            ConnectionPool {
                max_connection_duration: Some(short),
                ..ConnectionPool::default()
            },
            "DT",
        ),
    ] {
        let bed = Bed::new(tcp(echo, pool)).await;
        let mut client = bed.client().await;
        let begun = Instant::now();
        client.send(b"SSH").await;
        assert_eq!(client.take(3).await.unwrap(), b"SSH");
        assert!(client.rest().await.is_empty());
        assert!(begun.elapsed() >= short / 2);
        assert_eq!(bed.record().await.flags.to_string(), flags);
    }
}

#[tokio::test]
async fn a_connection_is_made_within_the_rules_time() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(0).unwrap();
    let addr = full.local_addr().unwrap();
    let mut held = Vec::new();
    let patience = Duration::from_millis(300);
    let connect = || tokio::net::TcpStream::connect(addr);
    while let Ok(stream) = tokio::time::timeout(patience, connect()).await {
        held.push(stream.unwrap());
    }
    let pool = ConnectionPool {
        connect_timeout: Some(Duration::from_millis(50)),
        ..ConnectionPool::default()
    };
    let bed = Bed::new(http(&[addr], pool)).await;
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    assert!(
        reply.text().ends_with("connection timeout"),
        "{}",
        reply.text()
    );
    assert!(Limits::default().connect > Duration::from_secs(5));
}
