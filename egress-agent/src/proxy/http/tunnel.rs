//! A websocket: the bytes of both sides after an upgrade, and which side ended first.
//!
//! It reads none of them.

use super::request_body::RequestBody;
use crate::proxy::ticket::Ticket;
use crate::proxy::upstream::carrier::Carrier;
use egress_core::http::response_flags::ResponseFlag;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use tokio::io::{AsyncWriteExt as _, copy, split};
use tokio::try_join;

/// Copies a websocket's bytes until both sides are done.
pub(super) async fn tunnel(
    downstream: OnUpgrade,
    upstream_side: OnUpgrade,
    upstream: Carrier<RequestBody>,
    mut ticket: Ticket,
) {
    let (Ok(downstream), Ok(upstream_io)) = (downstream.await, upstream_side.await) else {
        return;
    };
    let (mut from_client, mut to_client) = split(TokioIo::new(downstream));
    let (mut from_origin, mut to_origin) = split(TokioIo::new(upstream_io));
    let first = OnceLock::new();
    let ended = |flag| {
        let _ = first.set(flag);
    };
    let up = async {
        let received = copy(&mut from_client, &mut to_origin).await?;
        ended(ResponseFlag::DC);
        to_origin.shutdown().await.map(|()| received)
    };
    let down = async {
        let sent = copy(&mut from_origin, &mut to_client).await?;
        ended(ResponseFlag::UC);
        to_client.shutdown().await.map(|()| sent)
    };
    let copied = try_join!(up, down);
    drop(upstream);
    if let Ok((received, sent)) = copied {
        ticket.counters.received.store(received, Relaxed);
        ticket.counters.sent.store(sent, Relaxed);
    }
    // As in Envoy, the side that ended first. A record that is not done is of a client that left.
    if first.get() == Some(&ResponseFlag::UC) {
        ticket.flag(ResponseFlag::UC);
        ticket.record.details =
            "upstream_reset_after_response_started{connection_termination}".into();
    }
}
