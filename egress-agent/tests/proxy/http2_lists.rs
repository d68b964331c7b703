//! The memory of lists of fields: each takes what it needs of its workload's share until its stream is over.

use crate::frames::*;
use crate::raw::{Raw, raw_origin};
use crate::support::{Bed, destination};
use crate::yaml::{route, rules};
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::{PortRoutes, RouteTable};
use tokio::sync::watch;

/// Fields of a long list, and the least memory of one.
const FIELDS: usize = 1000;
const LONG: usize = FIELDS * 96;

/// Enough for more than the share of a workload.
const STREAMS: u32 = 500;

async fn bed(routes: RouteTable) -> Bed {
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    bed.put(routes);
    bed
}

/// Requests whose bodies the proxy does not read yet.
async fn held() -> Bed {
    let origin = raw_origin(|_, mut raw: Raw| async move {
        raw.rest().await;
    });
    let delay = "fault: {delay: {fixedDelay: 30s, percentage: {value: 100}}}";
    bed(rules(origin.await, "protocol: HTTP", &route("http", delay))).await
}

fn post(number: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS,
        stream(number),
        &fields_to("a.example"),
    )
}

/// In two parts, after a priority and before padding.
fn trailers(number: u32) -> Vec<u8> {
    let (padded, priority) = (8, 0x20);
    let first = [&[1, 0, 0, 0, 0, 9][..], &long(FIELDS / 2), b"x"].concat();
    let flags = END_STREAM | padded | priority;
    let mut bytes = frame(HEADERS, flags, stream(number), &first);
    let rest = long(FIELDS / 2);
    bytes.extend(frame(CONTINUATION, END_HEADERS, stream(number), &rest));
    bytes
}

#[tokio::test]
async fn trailers_take_memory_until_their_stream_is_over() {
    let bed = held().await;
    let mut raw = bed.client().await;
    raw.send(&preface()).await;
    for number in 0..4 {
        raw.send(&post(number)).await;
    }
    let heads = bed.memory(|used| used >= (28 + 4 * 12) * 4096).await;
    for number in 0..4 {
        raw.send(&trailers(number)).await;
    }
    let most = bed.memory(|used| used >= heads + 4 * LONG).await;
    raw.send(&frame(RST_STREAM, 0, stream(0), &[0, 0, 0, 8]))
        .await;
    bed.memory(|used| used <= most - LONG).await;
    drop(raw);
    bed.memory(|used| used == 0).await;
}

#[tokio::test]
async fn trailers_cannot_take_more_than_the_share() {
    let bed = held().await;
    let share = Limits::default().memory / 4;
    assert!(STREAMS as usize * LONG > share);
    let mut bytes = preface();
    for number in 0..STREAMS {
        bytes.extend(post(number));
        bytes.extend(trailers(number));
    }
    let end = flood(bed.client().await, bytes, 0, |_| Vec::new()).await;
    assert_eq!(end.code, Some(ENHANCE_YOUR_CALM), "{end:?}");
    assert_eq!(bed.denial().await, DenialReason::MemoryLimit);
    bed.memory(|used| used == 0).await;
}

#[tokio::test]
async fn lists_of_an_origin_take_memory_until_their_stream_is_over() {
    let (goes_on, origin_goes_on) = watch::channel(0);
    let (asked, origin_asked) = watch::channel(0);
    let origin = raw_origin(move |_, mut raw: Raw| {
        let (asked, mut goes_on) = (asked.clone(), origin_goes_on.clone());
        async move {
            raw.send(&frame(SETTINGS, 0, 0, b"")).await;
            raw.take(24 + 9).await;
            asked.send_replace(1);
            goes_on.wait_for(|step| *step == 1).await.unwrap();
            // `:status: 200`, a byte, and trailers.
            raw.send(&frame(HEADERS, END_HEADERS, 1, b"\x88")).await;
            raw.send(&frame(DATA, 0, 1, b"x")).await;
            let flags = END_STREAM | END_HEADERS;
            raw.send(&frame(HEADERS, flags, 1, &long(FIELDS))).await;
            goes_on.wait_for(|step| *step == 2).await.ok();
        }
    });
    let bed = bed(rules(origin.await, "protocol: HTTP2", "")).await;
    let mut raw = bed.client().await;
    // No byte of a body fits into the client's window, so the trailers wait.
    let closed = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    raw.send(&preface()[..24]).await;
    raw.send(&[closed, request_to("a.example")].concat()).await;
    origin_asked
        .clone()
        .wait_for(|step| *step == 1)
        .await
        .unwrap();
    let before = bed.memory(|_| true).await;
    goes_on.send_replace(1);
    bed.memory(|used| used >= before + LONG).await;
    raw.send(&frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9])).await;
    bed.memory(|used| used <= before).await;
    drop((raw, goes_on));
    bed.memory(|used| used == 0).await;
}
