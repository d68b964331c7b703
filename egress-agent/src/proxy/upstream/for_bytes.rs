//! Makes the connection for the bytes of a TCP or TLS flow: to the first address that answers, and through a tunnel if
//! the rules ask for one.
//!
//! It sends no data of a client, and does not decide which destinations are allowed.

use super::connect::{Connected, connect};
use super::dial::Way;
use super::tls::Peer;
use super::tunnel;
use super::workload::Workload;
use crate::proxy::client::Client;
use crate::proxy::observe::AccessRecord;
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::routing::Cluster;
use egress_core::traffic::{Outcome, UpstreamProtocol};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Attempts of a TCP or TLS connection.
const TRIES: u32 = 3;
/// The base interval of the back-off between them.
const BACK_OFF: Duration = Duration::from_millis(25);

/// Connects to the first address that answers. Notes the address and the number of attempts in the
/// record.
pub(in crate::proxy) async fn connect_any(
    client: &Client,
    (cluster, workload, peer): (&Cluster, Option<&Workload>, Option<&Peer>),
    order: &[SocketAddr],
    record: &mut AccessRecord,
) -> Result<Connected, UpstreamReset> {
    let mut last = UpstreamReset::ConnectTimeout;
    for (attempt, to) in (0..TRIES).zip(order.iter().cycle()) {
        if attempt > 0 {
            sleep(jitter(BACK_OFF * ((1 << attempt) - 1))).await;
        }
        record.attempts += 1;
        record.upstream = Some(*to);
        let way = Way {
            cluster,
            workload,
            first: *to,
            order,
        };
        let connected = tunnelled(client, &way, peer).await;
        let address = connected.as_ref().map_or(*to, |c| c.address);
        record.upstream = Some(address);
        if let (Some(workload), Some(outcome)) = (workload, outcome(&connected)) {
            workload.note(cluster, address, outcome);
        }
        match connected {
            Ok(connected) => return Ok(connected),
            // A limit of the proxy, which says nothing about the endpoint and holds for the next attempt too.
            Err(limit @ UpstreamReset::Overflow(_)) => return Err(limit),
            Err(reset) => last = reset,
        }
    }
    Err(last)
}

/// A connection for bytes: behind the proxy's response, if they go through a tunnel.
async fn tunnelled(
    client: &Client,
    to: &Way<'_>,
    peer: Option<&Peer>,
) -> Result<Connected, UpstreamReset> {
    let connected = connect(client, to, peer).await?;
    let cluster = to.cluster;
    let Some(tunnel) = &cluster.policy.tunnel else {
        return Ok(connected);
    };
    let http2 = cluster.protocol == UpstreamProtocol::Http2;
    let limit = cluster.policy.pool.connect_timeout;
    let limit = limit.unwrap_or(client.shared.limits.connect);
    let opened = timeout(limit, tunnel::open(client, connected.stream, tunnel, http2));
    match Box::pin(opened).await {
        Ok(stream) => Ok(Connected {
            stream: stream?,
            ..connected
        }),
        Err(_) => Err(UpstreamReset::ConnectTimeout),
    }
}

/// What an attempt says about its endpoint.
fn outcome<T>(connected: &Result<T, UpstreamReset>) -> Option<Outcome> {
    match connected {
        Ok(_) => Some(Outcome::Connected),
        Err(UpstreamReset::Overflow(_)) => None,
        Err(UpstreamReset::ConnectTimeout) => Some(Outcome::TimedOut),
        Err(_) => Some(Outcome::Lost),
    }
}

/// A random share of an interval.
fn jitter(most: Duration) -> Duration {
    let share = uuid::Uuid::new_v4().as_u128() % 1000;
    most * (share as u32) / 1000
}
