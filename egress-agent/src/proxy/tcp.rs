//! Bytes that are not read, or no further: copied both ways between the client and a destination.
//!
//! It judges nothing: that the flow may pass was decided by its name or its original destination.

use super::Protocol;
use super::flow::{Client, Counters, Rewound, Ticket};
use super::upstream::connect_any;
use egress_core::http::local_reply::ResponseFlag;
use egress_core::routing::{Cluster, candidates};
use std::sync::Arc;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

/// Relays a connection of which `ahead` was read so far.
pub(super) async fn relay(client: Client, ahead: Vec<u8>, stream: TcpStream, cluster: &Arc<Cluster>) {
    let ticket = |counters| Ticket::new(client.clone(), Protocol::Tcp, counters);
    forward(&client, Rewound::new(ahead, stream), ticket, cluster).await;
}

/// Connects to one of the destination's addresses and copies until both sides have ended.
pub(super) async fn forward(
    client: &Client,
    mut downstream: Rewound,
    ticket: impl FnOnce(Arc<Counters>) -> Ticket,
    cluster: &Arc<Cluster>,
) {
    let mut ticket = ticket(downstream.counters());
    ticket.record.service = Some(cluster.host.clone());
    let order = candidates(cluster, client.origin.destination, client.shared.next_turn());
    if order.is_empty() {
        return ticket.flag(ResponseFlag::UH);
    }
    match connect_any(client, &order, &mut ticket.record).await {
        Ok(mut upstream) => match copy_bidirectional(&mut downstream, &mut upstream).await {
            Ok(_) => ticket.done(),
            // Which side broke off is not told; both are closed.
            Err(_) => ticket.flag(ResponseFlag::DC),
        },
        Err(_) => ticket.flag(ResponseFlag::UF),
    }
}
