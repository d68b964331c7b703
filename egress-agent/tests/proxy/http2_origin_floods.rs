//! Origins that flood the proxy with HTTP/2 frames. Each loses its connection, its client gets an error, and other
//! workloads are served meanwhile.

use crate::frames::*;
use crate::raw::{Raw, raw_origin};
use crate::streams::{Client, get};
use crate::support::{Bed, PATIENCE, destination};
use crate::yaml::rules;
use egress_agent::proxy::Limits;
use egress_core::routing::PortRoutes;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

const HOST: &str = "a.example";
/// `:status: 200` and `103`, the last not in the static table.
const OK: &[u8] = b"\x88";
const HINTS: &[u8] = b"\x08\x03103";

type Frames = fn(u32) -> Vec<u8>;

async fn bed(origin: SocketAddr) -> Bed {
    let from = destination("192.0.2.1:80");
    let bed = Bed::with(PortRoutes::default(), Some(from), Limits::default()).await;
    bed.put(rules(origin, "protocol: HTTP2", ""));
    bed
}

/// An origin that sends `first`, then the same frame again and again. It tells how many it could send.
async fn flooding(first: Frames, frames: Frames) -> (SocketAddr, mpsc::UnboundedReceiver<u32>) {
    let (told, sent) = mpsc::unbounded_channel();
    let address = raw_origin(move |_, mut raw: Raw| {
        let told = told.clone();
        async move {
            raw.send(&frame(SETTINGS, 0, 0, b"")).await;
            // The preface, and the head of the first request.
            raw.take(24 + 9).await;
            sleep(Duration::from_millis(50)).await;
            raw.send(&first(0)).await;
            let mut number = 0;
            let writing = async {
                while raw.stream.write_all(&frames(number)).await.is_ok() {
                    number += 1;
                }
            };
            timeout(PATIENCE, writing)
                .await
                .expect("its connection ends");
            told.send(number).ok();
        }
    })
    .await;
    (address, sent)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_any_frame_ends_the_connection_of_its_origin() {
    let none: Frames = |_| Vec::new();
    let answer: Frames = |_| frame(HEADERS, END_HEADERS, 1, OK);
    let cases: [(&str, Frames, Frames); 11] = [
        ("PING", none, |_| frame(PING, 0, 0, &[0; 8])),
        ("SETTINGS", none, |_| frame(SETTINGS, 0, 0, b"")),
        ("unknown", none, |_| frame(0xfe, 0, 0, &[0; 100])),
        ("1xx", none, |_| frame(HEADERS, END_HEADERS, 1, HINTS)),
        ("DATA", answer, |_| frame(DATA, 0, 1, b"")),
        ("PRIORITY", none, |_| {
            frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 7])
        }),
        ("WINDOW_UPDATE", none, |_| {
            frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])
        }),
        ("PUSH_PROMISE", none, |n| {
            frame(PUSH_PROMISE, END_HEADERS, 1, &(2 * n + 2).to_be_bytes())
        }),
        (
            "CONTINUATION",
            |_| frame(HEADERS, 0, 1, OK),
            |_| frame(CONTINUATION, 0, 1, b"\0\x01a\x01b"),
        ),
        (
            "long fields",
            |_| frame(HEADERS, 0, 1, OK),
            |_| {
                let mut field = b"\0\x01a\x7f\x81\x76".to_vec();
                field.extend([b'x'; 127 + 1 + (0x76 << 7)]);
                frame(CONTINUATION, 0, 1, &field)
            },
        ),
        ("RST_STREAM", none, |_| {
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])
        }),
    ];
    for (name, first, frames) in cases {
        let (origin, mut sent) = flooding(first, frames).await;
        let bed = bed(origin).await;
        let mut client = Client::new(&bed).await;
        let begun = Instant::now();
        let reply = timeout(PATIENCE, client.ask(get(HOST, "/"))).await;
        let reply = reply.expect("the client is not left waiting");
        if let Ok(reply) = &reply {
            assert!([502, 503].contains(&reply.status), "{name}: {reply:?}");
        }
        let sent = timeout(PATIENCE, sent.recv()).await;
        let sent = sent.expect("the origin is cut off").unwrap();
        let status = reply
            .map(|reply| reply.status)
            .map_err(|error| error.to_string());
        println!(
            "{name}: {status:?}, {sent} frames sent, {:?}",
            begun.elapsed()
        );
        // The client's connection goes on.
        assert!(!client.driver.is_finished(), "{name}");
        drop(client);
        bed.memory(|used| used == 0).await;
    }
}
