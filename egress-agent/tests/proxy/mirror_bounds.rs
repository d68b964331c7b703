//! What mirrors may not do: reach what rules do not list, outlive their rule, delay requests or grow memory.

use crate::mirrors::{OK, OTHER, all, bed, hanging, next, passes, port, telling};
use crate::raw::{fixed_origin, get, raw_origin, refused_address};
use crate::support::{Bed, HOST, cluster, destination};
use egress_agent::proxy::{CopyEnd, DenialReason, Limits};
use egress_core::routing::Cluster;
use egress_core::traffic::{ClusterPolicy, ConnectionPool};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::timeout;

#[tokio::test]
async fn a_mirror_that_hangs_or_is_down_delays_nothing() {
    let (hangs, _told) = hanging().await;
    let bed = bed(vec![
        all(cluster(OTHER, &[hangs])),
        all(cluster("down.example", &[refused_address()])),
    ])
    .await;
    let mut client = bed.client().await;
    let began = Instant::now();
    for _ in 0..10 {
        passes(&mut client).await;
        assert_eq!(
            bed.copied().await,
            CopyEnd::Failed,
            "that of the one that is down"
        );
    }
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_mirror_that_is_too_slow_for_a_body_loses_its_copy() {
    let (release, released) = watch::channel(false);
    let hangs = raw_origin(move |_, mut raw| {
        let mut released = released.clone();
        async move {
            raw.head().await;
            released.wait_for(|go| *go).await.ok();
        }
    })
    .await;
    let bed = bed(vec![all(cluster(OTHER, &[hangs]))]).await;
    let mut client = bed.client().await;
    let body = vec![b'x'; 32 * 1024 * 1024];
    let head = format!(
        "PUT / HTTP/1.1\r\nHost: {HOST}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    client.send(head.as_bytes()).await;
    client.send(&body).await;
    assert_eq!(client.message().await.unwrap().status(), 200);
    assert_eq!(bed.copied().await, CopyEnd::NoRoom);
    release.send(true).unwrap();
}

#[tokio::test]
async fn copies_take_a_part_of_the_workloads_memory_and_no_more() {
    let (hangs, mut told) = hanging().await;
    // Copies may take 24 blocks, and one takes 12.
    let limits = Limits {
        memory: 16 * 24 * 4096,
        ..Limits::default()
    };
    let origin = fixed_origin(OK).await;
    let routes = port(origin, vec![all(cluster(OTHER, &[hangs]))]);
    let bed = Bed::with(routes, Some(destination("192.0.2.1:80")), limits).await;
    let mut client = bed.client().await;
    for _ in 0..2 {
        passes(&mut client).await;
        assert_eq!(next(&mut told).await, "head");
    }
    for _ in 0..20 {
        passes(&mut client).await;
        assert_eq!(bed.copied().await, CopyEnd::NoRoom);
    }
    // Those that run end with their permission, and then there is room again.
    bed.change(port(origin, vec![]));
    for _ in 0..2 {
        assert_eq!(bed.copied().await, CopyEnd::Denied);
    }
    let (mirror, mut seen) = telling(OK).await;
    bed.change(port(origin, vec![all(cluster(OTHER, &[mirror]))]));
    passes(&mut client).await;
    next(&mut seen).await;
}

#[tokio::test]
async fn a_copy_ends_when_its_rule_is_removed_and_the_request_does_not() {
    let (hangs, mut told) = hanging().await;
    let (release, released) = watch::channel(false);
    let origin = raw_origin(move |_, mut raw| {
        let mut released = released.clone();
        async move {
            raw.message().await;
            released.wait_for(|go| *go).await.ok();
            raw.send(OK.as_bytes()).await;
        }
    })
    .await;
    let mirror = cluster(OTHER, &[hangs]);
    let bed = Bed::new(port(origin, vec![all(Arc::clone(&mirror))])).await;
    let mut client = bed.client().await;
    client.send(get(HOST, "/").as_bytes()).await;
    assert_eq!(next(&mut told).await, "head");
    // A change that keeps the mirror, and new addresses of it, end nothing.
    let moved = cluster(OTHER, &[refused_address()]);
    bed.change(port(origin, vec![all(moved)]));
    let quiet = timeout(Duration::from_millis(200), told.recv()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let missing = Cluster {
        missing: true,
        ..Cluster::clone(&mirror)
    };
    bed.change(port(origin, vec![all(Arc::new(missing))]));
    assert_eq!(next(&mut told).await, "end");
    assert_eq!(bed.copied().await, CopyEnd::Denied);
    assert_eq!(bed.denial().await, DenialReason::Removed.of_mirror());
    release.send(true).unwrap();
    assert_eq!(client.message().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_mirror_that_the_rules_do_not_allow_gets_nothing_and_the_log_says_why() {
    let (mirror, mut seen) = telling(OK).await;
    let listed = Cluster::clone(&cluster(OTHER, &[mirror]));
    let not_listed = Cluster {
        missing: true,
        ..listed.clone()
    };
    let protected = Cluster {
        policy: ClusterPolicy::denying(&"a field is not carried out".into()),
        ..listed.clone()
    };
    let as_dialled = Cluster {
        original_dst: Some(mirror.port()),
        endpoints: vec![],
        ..listed.clone()
    };
    let unresolved = Cluster {
        endpoints: vec![],
        ..listed
    };
    for (cluster, why) in [
        (not_listed, DenialReason::NoCluster(OTHER.into())),
        (
            protected,
            DenialReason::NotCarriedOut("a field is not carried out".into()),
        ),
        (as_dialled, DenialReason::NoEndpoint(OTHER.into())),
        (unresolved, DenialReason::NoEndpoint(OTHER.into())),
    ] {
        let bed = bed(vec![all(Arc::new(cluster))]).await;
        passes(&mut bed.client().await).await;
        assert_eq!(bed.copied().await, CopyEnd::Denied);
        let told = bed.told().await;
        assert_eq!(
            (told.reason.code(), told.name.as_deref()),
            ("mirror", Some(HOST))
        );
        assert_eq!(told.reason, why.of_mirror());
    }
    assert!(seen.try_recv().is_err());
}

#[tokio::test]
async fn the_connection_pool_of_a_mirror_bounds_its_copies() {
    let (hangs, mut told) = hanging().await;
    let pool = ConnectionPool {
        requests: Some(1),
        ..ConnectionPool::default()
    };
    let policy = ClusterPolicy {
        pool,
        ..ClusterPolicy::default()
    };
    let mirror = Cluster {
        policy: Arc::new(policy),
        ..Cluster::clone(&cluster(OTHER, &[hangs]))
    };
    let bed = bed(vec![all(Arc::new(mirror))]).await;
    let mut client = bed.client().await;
    passes(&mut client).await;
    assert_eq!(next(&mut told).await, "head");
    passes(&mut client).await;
    assert_eq!(
        bed.denial().await,
        DenialReason::ConnectionPool(OTHER.into())
    );
    assert_eq!(bed.copied().await, CopyEnd::Failed);
}

#[tokio::test]
async fn a_copy_ends_with_a_client_that_leaves_within_the_body_and_not_with_one_behind_it() {
    let (mirror, mut told) = hanging().await;
    let (origin, _origin_told) = hanging().await;
    let bed = Bed::new(port(origin, vec![all(cluster(OTHER, &[mirror]))])).await;
    let mut client = bed.client().await;
    let head = format!("PUT / HTTP/1.1\r\nHost: {HOST}\r\ncontent-length: 5\r\n\r\nhe");
    client.send(head.as_bytes()).await;
    assert_eq!(next(&mut told).await, "head");
    drop(client);
    assert_eq!(next(&mut told).await, "end");
    assert_eq!(bed.copied().await, CopyEnd::Failed);

    let mut client = bed.client().await;
    client.send(get(HOST, "/").as_bytes()).await;
    assert_eq!(next(&mut told).await, "head");
    drop(client);
    bed.record().await;
    let quiet = timeout(Duration::from_millis(200), told.recv()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}
