//! `loadBalancer` and `outlierDetection`: which endpoint gets a request.

use crate::raw::{Message, Raw, get, raw_origin};
use crate::support::{Bed, HOST, cluster, destination, split_port};
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::{Cluster, PortRoutes, Split, TcpRoute};
use egress_core::traffic::{
    Balance, ClusterPolicy, Cookie, HashOn, OutlierDetection, RetryOn, RetryPolicy, RoutePolicy,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// An origin that answers with its name. A path `/hang` gets no answer.
async fn named(name: usize, status: u16) -> SocketAddr {
    raw_origin(move |_, mut raw: Raw| async move {
        while let Some(message) = raw.message().await {
            if message.head.starts_with("GET /hang") {
                raw.rest().await;
                return;
            }
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 1\r\n\r\n{name}");
            raw.send(head.as_bytes()).await;
        }
    })
    .await
}

async fn several(count: usize) -> Vec<SocketAddr> {
    let mut all = Vec::new();
    for name in 0..count {
        all.push(named(name, 200).await);
    }
    // As a snapshot has them.
    all.sort_unstable();
    all
}

fn split(endpoints: &[SocketAddr], weights: &[u32], policy: ClusterPolicy) -> Split {
    Split::one(Arc::new(Cluster {
        policy: Arc::new(policy),
        weights: weights.to_vec(),
        balanced: true,
        ..Cluster::clone(&cluster(HOST, endpoints))
    }))
}

async fn bed(endpoints: &[SocketAddr], policy: ClusterPolicy) -> Bed {
    let split = split(endpoints, &[], policy);
    Bed::new(split_port(HOST, split, RoutePolicy::default())).await
}

fn balance(balance: Balance) -> ClusterPolicy {
    ClusterPolicy {
        balance: Some(balance),
        ..ClusterPolicy::default()
    }
}

async fn ask(bed: &Bed, path: &str, header: &str) -> Message {
    let line = if header.is_empty() {
        String::new()
    } else {
        format!("{header}\r\n")
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n{line}\r\n");
    bed.client().await.ask(&request).await
}

/// How often each endpoint answered.
async fn shares(bed: &Bed, times: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..times {
        let name = ask(bed, "/", "").await.text().to_owned();
        *counts.entry(name).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn every_balance_uses_every_endpoint() {
    let all = several(3).await;
    for (rule, even) in [
        (Balance::LeastRequest, true),
        (Balance::RoundRobin, true),
        (Balance::Random, false),
    ] {
        let bed = bed(&all, balance(rule.clone())).await;
        let counts = shares(&bed, 60).await;
        assert_eq!(counts.len(), 3, "{rule:?} {counts:?}");
        if even {
            assert!(counts.values().all(|n| *n == 20), "{rule:?} {counts:?}");
        }
    }
}

#[tokio::test]
async fn endpoints_get_requests_by_their_weight() {
    let all = several(2).await;
    let split = split(&all, &[1, 3], ClusterPolicy::default());
    let bed = Bed::new(split_port(HOST, split, RoutePolicy::default())).await;
    let counts: BTreeSet<_> = shares(&bed, 80).await.into_values().collect();
    let (few, many) = (counts.first().unwrap(), counts.last().unwrap());
    assert!(
        few.abs_diff(20) <= 3 && many.abs_diff(60) <= 3,
        "{counts:?}"
    );
}

#[tokio::test]
async fn a_busy_endpoint_gets_fewer_requests() {
    let all = several(2).await;
    let bed = bed(&all, ClusterPolicy::default()).await;
    let mut busy = Vec::new();
    let mut hung = bed.client().await;
    hung.send(get(HOST, "/hang").as_bytes()).await;
    busy.push(hung);
    // The proxy may not have sent it yet.
    let until = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        let counts = shares(&bed, 4).await;
        if counts.len() == 1 {
            break;
        }
        assert!(std::time::Instant::now() < until, "{counts:?}");
    }
    assert_eq!(shares(&bed, 10).await.len(), 1);
}

#[tokio::test]
async fn a_hash_keeps_a_client_at_its_endpoint() {
    let all = several(4).await;
    for (on, path, headers) in [
        (HashOn::Header("x-user".into()), "/", ["x-user: ", ""]),
        (
            HashOn::Cookie(Cookie {
                name: "user".into(),
                path: String::new(),
                ttl: None,
                attributes: vec![],
            }),
            "/",
            ["cookie: a=b; user=", ""],
        ),
        (HashOn::QueryParameter("user".into()), "/p?user=", ["", ""]),
    ] {
        let bed = bed(&all, balance(Balance::Hash(on.clone()))).await;
        let mut used = BTreeSet::new();
        for user in 0..24 {
            let header = match headers[0] {
                "" => String::new(),
                name => format!("{name}{user}"),
            };
            let path = if path == "/" {
                path.to_owned()
            } else {
                format!("{path}{user}")
            };
            let mut names = BTreeSet::new();
            for _ in 0..3 {
                names.insert(ask(&bed, &path, &header).await.text().to_owned());
            }
            assert_eq!(names.len(), 1, "{on:?} {user}");
            used.extend(names);
        }
        assert!(used.len() >= 3, "{on:?} {used:?}");
    }
    let bed = bed(&all, balance(Balance::Hash(HashOn::SourceIp))).await;
    assert_eq!(shares(&bed, 12).await.len(), 1);
}

#[tokio::test]
async fn a_client_without_the_cookie_gets_one_that_keeps_its_endpoint() {
    let all = several(4).await;
    let cookie = Cookie {
        name: "user".into(),
        path: "/p".into(),
        ttl: Some(Duration::from_mins(1)),
        attributes: vec![("SameSite".into(), "Strict".into())],
    };
    let bed = bed(&all, balance(Balance::Hash(HashOn::Cookie(cookie)))).await;
    let first = ask(&bed, "/", "").await;
    let line = first.header("set-cookie").unwrap();
    let (value, rest) = line.split_once("; ").unwrap();
    assert_eq!(rest, "Max-Age=60; Path=/p; SameSite=Strict; HttpOnly");
    for _ in 0..6 {
        let again = ask(&bed, "/", &format!("cookie: {value}")).await;
        assert_eq!(again.text(), first.text());
        assert_eq!(again.header("set-cookie"), None);
    }
}

fn ejecting(errors: u32, most_ejected: u32) -> ClusterPolicy {
    ClusterPolicy {
        outliers: Some(OutlierDetection {
            server_errors: Some(errors),
            gateway_errors: None,
            local_failures: Some(errors),
            split: false,
            interval: Duration::from_millis(500),
            base: Duration::from_secs(1),
            most_ejected,
            least_healthy: 0,
            codes: vec![],
        }),
        ..ClusterPolicy::default()
    }
}

#[tokio::test]
async fn an_endpoint_with_errors_is_left_alone_and_comes_back() {
    let (bad, good) = (named(0, 500).await, named(1, 200).await);
    let bed = bed(&[bad, good], ejecting(3, 50)).await;
    let counts = shares(&bed, 10).await;
    assert_eq!(counts["0"], 3, "{counts:?}");
    let until = std::time::Instant::now() + Duration::from_secs(20);
    while ask(&bed, "/", "").await.text() != "0" {
        assert!(std::time::Instant::now() < until, "it did not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_connection_to_an_ejected_endpoint_is_not_used_again_when_it_comes_back() {
    let origin = raw_origin(|number, mut raw: Raw| async move {
        while raw.message().await.is_some() {
            let status = if number == 0 { 500 } else { 200 };
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 1\r\n\r\n{number}");
            raw.send(head.as_bytes()).await;
        }
    })
    .await;
    let bed = bed(&[origin], ejecting(2, 100)).await;
    let mut client = bed.client().await;
    // The first error does not eject, so the second request uses the same connection.
    for _ in 0..2 {
        assert_eq!(client.ask(&get(HOST, "/")).await.text(), "0");
    }
    let reply = client.ask(&get(HOST, "/")).await;
    assert_eq!(reply.text(), "no healthy upstream");
    let until = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        match client.ask(&get(HOST, "/")).await.text() {
            "no healthy upstream" => {}
            other => return assert_eq!(other, "1"),
        }
        assert!(std::time::Instant::now() < until, "it did not come back");
    }
}

#[tokio::test]
async fn without_an_endpoint_that_may_be_used_the_reply_is_no_healthy_upstream() {
    let all = [named(0, 503).await, named(1, 503).await];
    let bed = bed(&all, ejecting(1, 100)).await;
    let statuses = [ask(&bed, "/", "").await, ask(&bed, "/", "").await];
    assert!(
        statuses
            .iter()
            .all(|reply| reply.text() != "no healthy upstream")
    );
    let reply = ask(&bed, "/", "").await;
    assert_eq!((reply.status(), reply.text()), (503, "no healthy upstream"));
    bed.record().await;
    bed.record().await;
    assert_eq!(bed.record().await.flags.to_string(), "UH");
}

#[tokio::test]
async fn a_retry_does_not_go_to_an_endpoint_that_was_just_ejected() {
    let bad = named(0, 503).await;
    let policy = RoutePolicy {
        retries: RetryPolicy {
            on: RetryOn::parse("5xx"),
            ..RetryPolicy::default()
        },
        ..RoutePolicy::default()
    };
    let split = split(&[bad], &[], ejecting(1, 100));
    let bed = Bed::new(split_port(HOST, split, policy)).await;
    let reply = ask(&bed, "/", "").await;
    assert_eq!((reply.status(), reply.text()), (503, "no healthy upstream"));
    assert_eq!(bed.record().await.attempts, 1);
}

#[tokio::test]
async fn a_limit_of_the_proxy_does_not_count_against_the_endpoint_of_a_tcp_flow() {
    let echo = raw_origin(|_, mut raw: Raw| async move {
        while let Some(byte) = raw.take(1).await {
            raw.send(&byte).await;
        }
    })
    .await;
    let tcp = vec![Arc::new(TcpRoute {
        nets: vec!["192.0.2.1/32".parse().unwrap()],
        sniffed: false,
        to: split(&[echo], &[], ejecting(1, 100)),
    })];
    let port = PortRoutes {
        tcp: tcp.into(),
        ..PortRoutes::default()
    };
    let limits = Limits {
        descriptors: 3,
        descriptors_each: 3,
        ..Limits::default()
    };
    let bed = Bed::with(port, Some(destination("192.0.2.1:80")), limits).await;
    let mut first = bed.client().await;
    first.send(b"SSH").await;
    assert_eq!(first.take(3).await.unwrap(), b"SSH");
    let mut second = bed.client().await;
    second.send(b"SSH").await;
    assert!(second.rest().await.is_empty());
    assert_eq!(bed.denial().await, DenialReason::ConnectionLimit);
    let record = bed.record().await;
    assert_eq!(
        (record.attempts, record.flags.to_string()),
        (1, "UO".into())
    );
    drop(first);
    bed.record().await;
    let mut third = bed.client().await;
    third.send(b"SSH").await;
    assert_eq!(third.take(3).await.unwrap(), b"SSH");
}
