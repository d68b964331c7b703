//! Rules that change while a request waits for its retry, whose first attempt left a connection open.

use crate::raw::{Raw, get, raw_origin};
use crate::support::{Bed, HOST, PATIENCE, cluster, port_of, split_port};
use egress_agent::proxy::DenialReason;
use egress_core::routing::Split;
use egress_core::traffic::{RetryOn, RetryPolicy, RoutePolicy};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// An origin that answers every request, and counts them.
async fn counting() -> (SocketAddr, Arc<AtomicUsize>) {
    let seen = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&seen);
    let at = raw_origin(move |_, mut raw: Raw| {
        let count = Arc::clone(&count);
        async move {
            while raw.message().await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    (at, seen)
}

/// A bed whose origin answers the first request with 503 after `change`, and the requests that it got.
async fn changed(change: impl AsyncFnOnce(&Bed)) -> (u16, usize, Bed) {
    let (tell, mut asked) = mpsc::unbounded_channel();
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let gate = Arc::clone(&go);
    let seen = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&seen);
    let before = raw_origin(move |_, mut raw: Raw| {
        let (gate, tell, count) = (Arc::clone(&gate), tell.clone(), Arc::clone(&count));
        async move {
            while raw.message().await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                tell.send(()).ok();
                gate.acquire().await.unwrap().forget();
                raw.send(b"HTTP/1.1 503 X\r\ncontent-length: 0\r\n\r\n")
                    .await;
            }
        }
    })
    .await;
    let bed = Bed::new(port_of(HOST, &[before], retrying())).await;
    let mut client = bed.client().await;
    client.send(get(HOST, "/").as_bytes()).await;
    timeout(PATIENCE, asked.recv()).await.unwrap();
    change(&bed).await;
    go.add_permits(2);
    let status = client.message().await.unwrap().status();
    (status, seen.load(Ordering::SeqCst), bed)
}

fn retrying() -> RoutePolicy {
    let retries = RetryPolicy {
        attempts: 1,
        on: RetryOn::parse("5xx"),
        ..RetryPolicy::default()
    };
    RoutePolicy {
        retries,
        ..RoutePolicy::default()
    }
}

#[tokio::test]
async fn a_retry_goes_to_the_endpoints_of_now_although_a_connection_to_a_former_one_is_open() {
    let (at, now) = counting().await;
    let changed = changed(async |bed: &Bed| bed.change(port_of(HOST, &[at], retrying()))).await;
    let (status, seen, bed) = changed;
    assert_eq!((status, seen, now.load(Ordering::SeqCst)), (200, 1, 1));
    assert_eq!(bed.record().await.attempts, 2);
}

#[tokio::test]
async fn a_retry_whose_route_is_gone_is_denied_although_a_connection_is_open() {
    let (at, other) = counting().await;
    let elsewhere = cluster("other.example", &[at]);
    let changed = changed(async |bed: &Bed| {
        bed.change(split_port(HOST, Split::one(elsewhere), retrying()));
    })
    .await;
    let (status, seen, bed) = changed;
    assert_eq!((status, seen, other.load(Ordering::SeqCst)), (502, 1, 0));
    assert_eq!(bed.denial().await, DenialReason::Removed);
}
