//! Relayed bytes that move through pipes: they arrive whole and in order, and the connection ends as one that is copied.
//!
//! A pipe is held as long as its bytes are not taken, so a reader that waits shows that there is one.

use crate::raw::raw_origin;
use crate::support::*;
use egress_agent::proxy::Limits;
use egress_core::routing::{Cluster, PortRoutes};
use egress_core::traffic::{ClusterId, ClusterPolicy, ConnectionPool};
use rustix::net::sockopt::set_socket_recv_buffer_size;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// More than the kernel's buffers of both connections take.
pub const MUCH: usize = 48 << 20;

pub fn routes_to(origin: SocketAddr, pool: ConnectionPool) -> PortRoutes {
    let cluster = Cluster {
        id: ClusterId::new("tcp.example", 80),
        endpoints: vec![origin],
        policy: Arc::new(ClusterPolicy {
            pool,
            ..ClusterPolicy::default()
        }),
        ..Cluster::default()
    };
    tcp_port_to(cluster)
}

pub async fn bed_to(origin: SocketAddr, limits: Limits) -> Bed {
    let at = Some(destination("192.0.2.1:80"));
    Bed::with(routes_to(origin, ConnectionPool::default()), at, limits).await
}

/// Bytes without a period that a buffer could have.
pub fn pattern(seed: u32) -> Arc<Vec<u8>> {
    let mut state = seed;
    let bytes = (0..1_000_003).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    Arc::new(bytes.collect())
}

/// Writes so many bytes of the repeated pattern.
pub async fn pour(to: &mut (impl AsyncWrite + Unpin), pattern: &[u8], mut left: usize) {
    while left > 0 {
        let part = &pattern[..left.min(pattern.len())];
        to.write_all(part).await.unwrap();
        left -= part.len();
    }
}

/// Reads to the end: exactly so many bytes of the repeated pattern.
pub async fn check(from: &mut (impl AsyncRead + Unpin), pattern: &[u8], total: usize) {
    let (mut seen, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        let read = timeout(PATIENCE, from.read(&mut buffer)).await;
        let count = read.expect("bytes").unwrap();
        if count == 0 {
            break;
        }
        let mut part = &buffer[..count];
        while !part.is_empty() {
            let at = seen % pattern.len();
            let most = part.len().min(pattern.len() - at);
            assert!(part[..most] == pattern[at..at + most], "at byte {seen}");
            (seen, part) = (seen + most, &part[most..]);
        }
    }
    assert_eq!(seen, total);
}

/// An origin whose connections are served once the test lets them go on.
pub async fn origin<F, R>(serve: F) -> (SocketAddr, watch::Sender<bool>)
where
    F: Fn(TcpStream, watch::Receiver<bool>) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let (go, waits) = watch::channel(false);
    let address = raw_origin(move |_, raw| {
        set_socket_recv_buffer_size(&raw.stream, 1 << 16).unwrap();
        serve(raw.stream, waits.clone())
    });
    (address.await, go)
}

/// Waits until the proxy has so many pipes.
pub async fn pipes(bed: &Bed, count: usize) {
    let start = Instant::now();
    while bed.shared.in_use().pipes.used != count {
        let now = bed.shared.in_use();
        assert!(start.elapsed() < PATIENCE, "{count} pipes: {now:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// All that connections hold is given back.
pub async fn nothing_is_left(bed: &Bed) {
    let start = Instant::now();
    loop {
        let now = bed.shared.in_use();
        let used = [now.connections, now.descriptors, now.memory, now.pipes].map(|use_| use_.used);
        if used == [0; 4] {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{now:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn both_directions_at_once_arrive_whole_and_each_byte_is_counted() {
    let (own, others) = (pattern(1), pattern(2));
    let (expected, answer) = (Arc::clone(&own), Arc::clone(&others));
    let (origin, go) = origin(move |stream, mut waits| {
        let (expected, answer) = (Arc::clone(&expected), Arc::clone(&answer));
        async move {
            let (mut read, mut write) = stream.into_split();
            let writing = tokio::spawn(async move {
                pour(&mut write, &answer, MUCH + 7).await;
                write.shutdown().await.unwrap();
            });
            waits.wait_for(|go| *go).await.unwrap();
            check(&mut read, &expected, MUCH).await;
            writing.await.unwrap();
        }
    })
    .await;
    let bed = bed_to(origin, Limits::default()).await;
    let client = TcpStream::connect(bed.proxy).await.unwrap();
    let (mut read, mut write) = client.into_split();
    let writing = tokio::spawn(async move {
        pour(&mut write, &own, MUCH).await;
        write.shutdown().await.unwrap();
    });
    pipes(&bed, 2).await;
    go.send_replace(true);
    check(&mut read, &others, MUCH + 7).await;
    writing.await.unwrap();
    let record = bed.record().await;
    assert_eq!(record.flags.to_string(), "-");
    assert_eq!(record.bytes_received, MUCH as u64);
    assert_eq!(record.bytes_sent, MUCH as u64 + 7);
    nothing_is_left(&bed).await;
}

#[tokio::test]
async fn a_half_close_follows_the_bytes_before_it_and_the_other_direction_continues() {
    let (own, others) = (pattern(3), pattern(4));
    for client_first in [true, false] {
        let (expected, answer) = (Arc::clone(&own), Arc::clone(&others));
        let (origin, go) = origin(move |mut stream, mut waits| {
            let (expected, answer) = (Arc::clone(&expected), Arc::clone(&answer));
            async move {
                if client_first {
                    waits.wait_for(|go| *go).await.unwrap();
                    check(&mut stream, &expected, MUCH).await;
                    pour(&mut stream, &answer, MUCH).await;
                    stream.shutdown().await.unwrap();
                } else {
                    pour(&mut stream, &answer, MUCH).await;
                    stream.shutdown().await.unwrap();
                    check(&mut stream, &expected, MUCH).await;
                }
            }
        })
        .await;
        let bed = bed_to(origin, Limits::default()).await;
        let client = TcpStream::connect(bed.proxy).await.unwrap();
        let (mut read, mut write) = client.into_split();
        if client_first {
            let own = Arc::clone(&own);
            let writing = tokio::spawn(async move {
                pour(&mut write, &own, MUCH).await;
                write.shutdown().await.unwrap();
                write
            });
            pipes(&bed, 1).await;
            go.send_replace(true);
            check(&mut read, &others, MUCH).await;
            writing.await.unwrap();
        } else {
            pipes(&bed, 1).await;
            check(&mut read, &others, MUCH).await;
            pour(&mut write, &own, MUCH).await;
            write.shutdown().await.unwrap();
        }
        let record = bed.record().await;
        let counted = [record.bytes_received, record.bytes_sent];
        assert_eq!(
            (record.flags.to_string(), counted),
            ("-".into(), [MUCH as u64; 2])
        );
        nothing_is_left(&bed).await;
    }
}

#[tokio::test]
async fn a_reader_that_waits_keeps_the_sender_waiting_and_costs_neither_time_nor_memory() {
    let own = pattern(5);
    let expected = Arc::clone(&own);
    let (origin, go) = origin(move |mut stream, mut waits| {
        let expected = Arc::clone(&expected);
        async move {
            waits.wait_for(|go| *go).await.unwrap();
            check(&mut stream, &expected, MUCH).await;
        }
    })
    .await;
    let bed = bed_to(origin, Limits::default()).await;
    let mut client = TcpStream::connect(bed.proxy).await.unwrap();
    let (sent, mut seen) = watch::channel(0);
    let writing = tokio::spawn(async move {
        for at in (0..MUCH).step_by(1 << 16) {
            let whole: Vec<u8> = (at..(at + (1 << 16)).min(MUCH))
                .map(|i| own[i % own.len()])
                .collect();
            client.write_all(&whole).await.unwrap();
            sent.send_replace(at + whole.len());
        }
        client
    });
    pipes(&bed, 1).await;
    while timeout(Duration::from_millis(300), seen.changed())
        .await
        .is_ok()
    {}
    assert!(*seen.borrow() < MUCH, "the sender waits");
    // This runtime runs the proxy, the client and the origin, and nothing else.
    let runtime = Handle::current().metrics();
    let (busy, parked) = (
        runtime.worker_total_busy_duration(0),
        runtime.worker_park_count(0),
    );
    sleep(Duration::from_secs(1)).await;
    let busy = runtime.worker_total_busy_duration(0).saturating_sub(busy);
    let parked = runtime.worker_park_count(0) - parked;
    assert!(
        busy < Duration::from_millis(100) && parked < 30,
        "{busy:?}, {parked} times"
    );
    let memory = bed.shared.in_use().memory.used;
    assert!(memory <= 256 << 10, "{memory} bytes");
    go.send_replace(true);
    let mut client = timeout(PATIENCE, writing).await.unwrap().unwrap();
    client.shutdown().await.unwrap();
    bed.record().await;
    nothing_is_left(&bed).await;
}

#[tokio::test]
async fn a_pipe_is_given_back_when_nothing_moves_and_small_messages_are_answered_at_once() {
    let (origin, _go) = origin(|mut stream, _| async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            stream.write_all(&buffer[..count]).await.unwrap();
        }
    })
    .await;
    let bed = bed_to(origin, Limits::default()).await;
    let (own, mut client) = (pattern(9), TcpStream::connect(bed.proxy).await.unwrap());
    for _ in 0..2 {
        let (mut read, mut write) = client.split();
        let mut all = vec![0; MUCH];
        let filled = async {
            pipes(&bed, 2).await;
            read.read_exact(&mut all).await.unwrap();
        };
        tokio::join!(pour(&mut write, &own, MUCH), filled);
        assert!(all.chunks(own.len()).all(|part| part == &own[..part.len()]));
        // While messages keep both pipes from resting, they are given back because each message is small.
        let start = Instant::now();
        while bed.shared.in_use().pipes.used > 0 && start.elapsed() < PATIENCE {
            client.write_all(b"small").await.unwrap();
            let mut echo = [0; 5];
            let read = timeout(PATIENCE, client.read_exact(&mut echo)).await;
            read.expect("an answer").unwrap();
            assert_eq!(&echo, b"small");
        }
        assert!(
            start.elapsed() < Duration::from_millis(900),
            "{:?}",
            start.elapsed()
        );
    }
    let (mut read, mut write) = client.split();
    let mut all = vec![0; MUCH];
    tokio::join!(pour(&mut write, &own, MUCH), async {
        pipes(&bed, 2).await;
        read.read_exact(&mut all).await.unwrap();
    });
    pipes(&bed, 0).await;
    client.write_all(b"later").await.unwrap();
    let mut echo = [0; 5];
    client.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"later");
}

/// The kernel moves no byte past an urgent one, and says that there are no more.
#[tokio::test]
async fn urgent_bytes_hold_nothing_up() {
    let (origin, _go) = origin(|mut stream, _| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream
            .write_all(&(all.len() as u64).to_be_bytes())
            .await
            .unwrap();
    })
    .await;
    let bed = bed_to(origin, Limits::default()).await;
    let mut client = TcpStream::connect(bed.proxy).await.unwrap();
    let bytes = pattern(11);
    let mut sent = 0;
    for _ in 0..40 {
        client.write_all(&bytes).await.unwrap();
        client.writable().await.unwrap();
        let urgent = rustix::net::send(&client, b"!", rustix::net::SendFlags::OOB);
        sent += bytes.len() + urgent.unwrap_or(0);
    }
    client.write_all(b"end").await.unwrap();
    client.shutdown().await.unwrap();
    let length = timeout(PATIENCE, client.read_u64())
        .await
        .expect("an answer")
        .unwrap();
    // As when it is read: an urgent byte is not part of the stream, unless a later one takes its place.
    let stream = 40 * bytes.len() as u64 + 3;
    assert!(
        (stream..=sent as u64 + 3).contains(&length),
        "{length} of {stream}"
    );
}
