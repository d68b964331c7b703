//! Pipes of relayed connections: how a connection ends while its pipe waits, and what is done without a pipe.

use crate::splice::*;
use crate::support::*;
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::PortKind;
use egress_core::traffic::ConnectionPool;
use rustix::net::sockopt::set_socket_linger;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

/// A client that has sent as much as is taken while nobody reads.
async fn stuck(bed: &Bed, own: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(bed.proxy).await.unwrap();
    let pouring = timeout(Duration::from_millis(300), pour(&mut client, own, MUCH)).await;
    assert!(pouring.is_err(), "nobody reads, but all was taken");
    client
}

#[tokio::test]
async fn a_reset_ends_both_sides_and_frees_the_pipe() {
    let own = pattern(6);
    for by_client in [true, false] {
        let (ended, mut end) = watch::channel(false);
        let (origin, go) = origin(move |mut stream, mut waits| {
            let ended = ended.clone();
            async move {
                waits.wait_for(|go| *go).await.unwrap();
                if by_client {
                    let mut buffer = vec![0; 1 << 16];
                    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
                } else {
                    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
                }
                drop(stream);
                ended.send_replace(true);
            }
        })
        .await;
        let bed = bed_to(origin, Limits::default()).await;
        let client = stuck(&bed, &own).await;
        pipes(&bed, 1).await;
        if by_client {
            set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
            drop(client);
            go.send_replace(true);
        } else {
            go.send_replace(true);
            let mut client = client;
            let read = timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap();
            assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        }
        timeout(PATIENCE, end.wait_for(|end| *end))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(bed.record().await.flags.to_string(), "DC");
        nothing_is_left(&bed).await;
    }
}

#[tokio::test]
async fn without_a_pipe_or_memory_for_one_bytes_are_copied() {
    let none = Limits {
        pipes: 0,
        ..Limits::default()
    };
    let little = Limits {
        memory: 4 * 24 * 4096,
        ..Limits::default()
    };
    for limits in [none, little] {
        let own = pattern(7);
        let expected = Arc::clone(&own);
        let (origin, go) = origin(move |mut stream, mut waits| {
            let expected = Arc::clone(&expected);
            async move {
                waits.wait_for(|go| *go).await.unwrap();
                check(&mut stream, &expected, MUCH).await;
            }
        })
        .await;
        let bed = bed_to(origin, limits).await;
        let mut client = TcpStream::connect(bed.proxy).await.unwrap();
        let writing = tokio::spawn(async move {
            pour(&mut client, &own, MUCH).await;
            client.shutdown().await.unwrap();
            client
        });
        sleep(Duration::from_millis(200)).await;
        assert_eq!(bed.shared.in_use().pipes.used, 0);
        go.send_replace(true);
        writing.await.unwrap();
        let record = bed.record().await;
        assert_eq!(record.bytes_received, MUCH as u64);
    }
}

#[tokio::test]
async fn a_workload_has_a_quarter_of_the_pipes_and_its_other_connections_copy() {
    let limits = Limits {
        pipes: 4,
        ..Limits::default()
    };
    let own = pattern(8);
    let (origin, go) = origin(|mut stream, mut waits| async move {
        waits.wait_for(|go| *go).await.unwrap();
        let mut buffer = vec![0; 1 << 16];
        while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
    })
    .await;
    let bed = bed_to(origin, limits).await;
    let first = stuck(&bed, &own).await;
    pipes(&bed, 1).await;
    let mut second = stuck(&bed, &own).await;
    assert_eq!(bed.shared.in_use().pipes.used, 1);
    go.send_replace(true);
    for client in [&mut second, &mut { first }] {
        pour(client, &own, MUCH).await;
        client.shutdown().await.unwrap();
    }
    for _ in 0..2 {
        assert!(bed.record().await.bytes_received > MUCH as u64);
    }
    nothing_is_left(&bed).await;
}

#[tokio::test]
async fn limits_and_rules_end_a_connection_whose_pipe_waits() {
    let short = Duration::from_millis(900);
    let idle = ConnectionPool {
        tcp_idle_timeout: Some(short),
        ..ConnectionPool::default()
    };
    let life = ConnectionPool {
        max_connection_duration: Some(short),
        ..ConnectionPool::default()
    };
    let own = pattern(10);
    for (pool, flags) in [(idle, "-"), (life, "DT"), (ConnectionPool::default(), "UC")] {
        let (origin, _go) = origin(|stream, mut waits| async move {
            waits.wait_for(|go| *go).await.ok();
            drop(stream);
        })
        .await;
        let bed = bed_to(origin, Limits::default()).await;
        bed.change(routes_to(origin, pool));
        let mut client = stuck(&bed, &own).await;
        pipes(&bed, 1).await;
        if flags == "UC" {
            bed.change(tls_port(PortKind::Sniff, "other.example", &[]));
            assert_eq!(bed.denial().await, DenialReason::Removed);
        }
        assert_eq!(bed.record().await.flags.to_string(), flags);
        let read = timeout(PATIENCE, client.read(&mut [0; 1])).await.unwrap();
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
        nothing_is_left(&bed).await;
    }
}
