//! Clients that flood the proxy with HTTP/2 frames, or hold what they take. Each is cut off, and other workloads are
//! served meanwhile.

use crate::frames::*;
use crate::raw::{Raw, echo_origin, fixed_origin, get, raw_origin};
use crate::streams::Client;
use crate::support::{Bed, HOST, PATIENCE, destination, http_port};
use egress_agent::proxy::{DenialReason, Limits};
use egress_ebpf::ids::CgroupId;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// More than any bound allows.
const FLOOD: u32 = 300_000;

async fn bed() -> Bed {
    Bed::new(http_port(HOST, &[echo_origin().await], None)).await
}

/// An origin that never answers.
async fn silent() -> Bed {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        raw.rest().await;
    })
    .await;
    Bed::new(http_port(HOST, &[origin], None)).await
}

/// Sends requests of another workload until the test is over. Fails if one takes too long.
async fn neighbour(bed: &Bed, over: &Arc<AtomicBool>) -> JoinHandle<u32> {
    let attacker = bed.origin.load_full();
    let mut other = destination("192.0.2.1:80");
    (other.cgroup, other.sharer) = (CgroupId(2), CgroupId(2));
    bed.origin.store(Arc::new(Some(other)));
    let mut client = bed.client().await;
    client.ask(&get(HOST, "/")).await;
    bed.origin.store(attacker);
    let over = Arc::clone(over);
    tokio::spawn(async move {
        let mut served = 0;
        while !over.load(Ordering::Relaxed) {
            let reply = timeout(PATIENCE, client.ask(&get(HOST, "/"))).await;
            assert_eq!(reply.expect("a neighbour is served").status(), 200);
            served += 1;
        }
        served
    })
}

async fn reason(bed: &Bed) -> String {
    match bed.denial().await {
        DenialReason::MalformedHttp(text) => text,
        other => panic!("{other:?}"),
    }
}

type Frames = fn(u32) -> Vec<u8>;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_any_frame_ends_its_connection_and_no_other() {
    let post: Frames = |_| frame(HEADERS, END_HEADERS, 1, &fields());
    let open: Frames = |_| frame(HEADERS, 0, 1, &fields());
    let none: Frames = |_| Vec::new();
    let cases: [(&str, Frames, Frames, &str); 12] = [
        ("PING", none, |_| frame(PING, 0, 0, &[0; 8]), "control"),
        (
            "PING answer",
            none,
            |_| frame(PING, 1, 0, &[0; 8]),
            "control",
        ),
        ("SETTINGS", none, |_| frame(SETTINGS, 0, 0, b""), "control"),
        (
            "SETTINGS with streams",
            post,
            |n| frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 1, (n % 256) as u8]),
            "control",
        ),
        ("unknown", none, |_| frame(0xfe, 0, 0, &[0; 100]), "control"),
        (
            "RST_STREAM",
            |_| [request(1), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat(),
            |_| frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            "control",
        ),
        (
            "PRIORITY",
            none,
            |n| frame(PRIORITY, 0, stream(n % 1000), &[0, 0, 0, 0, 7]),
            "PRIORITY",
        ),
        (
            "WINDOW_UPDATE",
            post,
            |_| frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
            "WINDOW_UPDATE",
        ),
        ("DATA", post, |_| frame(DATA, 0, 1, b""), "without content"),
        (
            "DATA of padding",
            post,
            |_| frame(DATA, 8, 1, &[3, 0, 0, 0]),
            "without content",
        ),
        (
            "CONTINUATION",
            open,
            |_| frame(CONTINUATION, 0, 1, b""),
            "without content",
        ),
        (
            "long CONTINUATION",
            open,
            // A field that is in no table.
            |_| frame(CONTINUATION, 0, 1, b"\0\x01a\x01b"),
            "excessive load",
        ),
    ];
    for (name, first, frames, expected) in cases {
        let bed = bed().await;
        let over = Arc::default();
        let neighbour = neighbour(&bed, &over).await;
        let first = [preface(), first(0)].concat();
        let begun = Instant::now();
        let end = flood(bed.client().await, first, FLOOD, frames).await;
        assert_eq!(end.code, Some(ENHANCE_YOUR_CALM), "{name}: {end:?}");
        let reason = reason(&bed).await;
        assert!(reason.contains(expected), "{name}: {reason}");
        over.store(true, Ordering::Relaxed);
        let served = neighbour.await.unwrap();
        println!(
            "{name}: ended after {:?}, {end:?}, {served} served",
            begun.elapsed()
        );
        bed.memory(|used| used == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rapid_resets_end_the_connection_in_one_read_or_many() {
    let pair: Frames = |n| {
        let stream = stream(n);
        [request(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
    };
    for pause in [false, true] {
        let bed = silent().await;
        let client = bed.client().await;
        let end = if pause {
            let (sent, mut raw) = (200_u32, client);
            raw.send(&preface()).await;
            for number in 0..sent {
                raw.send(&request(stream(number))).await;
                // The stream has begun before it is reset.
                sleep(Duration::from_millis(1)).await;
                let reset = frame(RST_STREAM, 0, stream(number), &[0, 0, 0, 8]);
                raw.send(&reset).await;
            }
            flood(raw, Vec::new(), FLOOD, move |n| {
                let stream = stream(sent + n);
                [request(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
            })
            .await
        } else {
            flood(client, preface(), FLOOD, pair).await
        };
        assert_eq!(end.code, Some(ENHANCE_YOUR_CALM), "{end:?}");
        let reason = reason(&bed).await;
        assert!(reason.contains("reset by their client"), "{reason}");
        bed.memory(|used| used == 0).await;
        let mut requests = 0;
        while let Ok(record) = bed.records.lock().await.try_recv() {
            assert!(record.flags.to_string().contains("DC"), "{record:?}");
            requests += 1;
        }
        println!("pause {pause}: {requests} requests, {end:?}");
        assert!((250..1500).contains(&requests), "{requests} requests");
    }
}

/// A list of fields that needs about 190 KiB.
fn unfinished() -> Vec<u8> {
    let list = [fields(), long(2000)].concat();
    frame(HEADERS, END_STREAM, 1, &list)
}

#[tokio::test]
async fn an_unfinished_list_of_fields_takes_memory_and_has_a_time_limit() {
    let limits = Limits {
        idle: Duration::from_millis(500),
        ..Limits::default()
    };
    let at = Some(destination("192.0.2.1:80"));
    let bed = Bed::with(http_port(HOST, &[echo_origin().await], None), at, limits).await;
    let mut raw = bed.client().await;
    raw.send(&preface()).await;
    let before = bed.memory(|used| used > 0).await;
    raw.send(&unfinished()).await;
    bed.memory(|used| used >= before + 190 * 1024).await;
    // A byte now and then keeps the connection from being silent.
    let slow = frame(CONTINUATION, END_HEADERS, 1, &[b'x'; 200]);
    for byte in &slow[..8] {
        raw.send(&[*byte]).await;
        sleep(Duration::from_millis(100)).await;
    }
    let end = flood(raw, Vec::new(), 0, |_| Vec::new()).await;
    assert_eq!(end.code, Some(ENHANCE_YOUR_CALM), "{end:?}");
    assert!(reason(&bed).await.contains("does not end"));
    bed.memory(|used| used == 0).await;
}

#[tokio::test]
async fn unfinished_lists_of_fields_cannot_take_more_than_the_share() {
    let bed = bed().await;
    let share = Limits::default().memory / 4;
    let mut open = Vec::new();
    let mut refused = 0;
    for _ in 0..250 {
        let mut raw = bed.client().await;
        raw.send(&[preface(), unfinished()].concat()).await;
        open.push(raw);
    }
    while refused < 50 {
        assert_eq!(bed.denial().await, DenialReason::MemoryLimit);
        refused += 1;
    }
    let used = bed.shared.in_use().memory.used;
    assert!((share / 2..=share).contains(&used), "{used} of {share}");
    let over = Arc::default();
    let neighbour = neighbour(&bed, &over).await;
    sleep(Duration::from_millis(100)).await;
    over.store(true, Ordering::Relaxed);
    assert!(neighbour.await.unwrap() > 0);
    drop(open);
    bed.memory(|used| used == 0).await;
}

#[tokio::test]
async fn a_connection_without_memory_is_told_so() {
    let limits = Limits {
        memory: 4 * 10 * 4096,
        room: Duration::from_millis(50),
        ..Limits::default()
    };
    let at = Some(destination("192.0.2.1:80"));
    let bed = Bed::with(http_port(HOST, &[echo_origin().await], None), at, limits).await;
    let first = [preface(), request(1)].concat();
    let end = flood(bed.client().await, first, 0, |_| Vec::new()).await;
    assert_eq!(end.code, Some(ENHANCE_YOUR_CALM), "{end:?}");
    assert_eq!(bed.denial().await, DenialReason::MemoryLimit);
}

#[tokio::test]
async fn long_heads_of_streams_without_memory_do_not_wait() {
    // A connection and one stream.
    let limits = Limits {
        memory: 4 * 42 * 4096,
        ..Limits::default()
    };
    let at = Some(destination("192.0.2.1:80"));
    let bed = silent().await;
    let routes = bed.routes.load_full();
    let bed = Bed::with(http_port(HOST, &[], None), at, limits).await;
    bed.put(egress_core::routing::RouteTable::clone(&routes));
    let mut client = Client::new(&bed).await;
    let _held = client.begin(crate::streams::get(HOST, "/"), true).await;
    let mut long = crate::streams::get(HOST, "/");
    let value = "x".repeat(10_000).parse().unwrap();
    long.headers_mut().insert("a", value);
    let begun = Instant::now();
    let reply = client.ask(long).await.unwrap();
    assert_eq!((reply.status, reply.text()), (503, "envoy overloaded"));
    assert!(begun.elapsed() < limits.room / 2, "{:?}", begun.elapsed());
}

/// A window that never opens, or by a byte at a time, holds one buffer a stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closed_windows_hold_no_more_than_their_streams_take() {
    const BODY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n";
    let origin = raw_origin(|_, mut raw: Raw| async move {
        while raw.head().await.is_some() {
            raw.send(BODY.as_bytes()).await;
            raw.send(&vec![b'x'; 1_000_000]).await;
        }
    })
    .await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let mut raw = bed.client().await;
    raw.send(&preface()).await;
    raw.send(&frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])).await;
    for number in 0..100 {
        raw.send(&request(stream(number))).await;
    }
    let (streams, until) = (100 * 12 * 4096, Instant::now() + PATIENCE);
    while bed.shared.in_use().memory.used < streams {
        assert!(Instant::now() < until, "{:?}", bed.shared.in_use());
        sleep(Duration::from_millis(10)).await;
    }
    let over = Arc::default();
    let neighbour = neighbour(&bed, &over).await;
    for number in 0..200 {
        raw.send(&frame(
            WINDOW_UPDATE,
            0,
            stream(number % 100),
            &[0, 0, 0, 1],
        ))
        .await;
    }
    sleep(Duration::from_millis(200)).await;
    over.store(true, Ordering::Relaxed);
    assert!(neighbour.await.unwrap() > 0);
    let used = bed.shared.in_use().memory.used;
    assert!(used < 2 * streams, "{used}");
    drop(raw);
    bed.memory(|used| used == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_client_is_not_cut_off() {
    const REQUESTS: usize = 20_000;
    const AT_ONCE: usize = 100;
    let origin = fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let bed = Bed::new(http_port(HOST, &[origin], None)).await;
    let client = Client::new(&bed).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..AT_ONCE {
        let mut client = client.send.clone();
        asking.spawn(async move {
            for number in 0..REQUESTS / AT_ONCE {
                let ready = std::future::poll_fn(|cx| client.poll_ready(cx));
                ready.await.unwrap();
                let request = crate::streams::get(HOST, "/");
                let (response, _) = client.send_request(request, true).unwrap();
                // A third of the calls is cancelled.
                if number % 3 > 0 {
                    let reply = crate::streams::whole(response).await.unwrap();
                    assert_eq!((reply.status, reply.text()), (200, "ok"));
                }
            }
        });
    }
    while let Some(asked) = asking.join_next().await {
        asked.unwrap();
    }
}
