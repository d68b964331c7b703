//! Copies bytes both ways between the client and a destination without reading them.
//!
//! It judges nothing: the flow was allowed by its name, its original destination, or a policy that
//! audits.

use super::ahead::Ahead;
use super::client::Client;
use super::observe::{DenialReason, Protocol};
use super::relay::{self, Ended};
use super::stream::Rewound;
use super::ticket::{Counters, Ticket};
use super::upstream::connect::Connected;
use super::upstream::for_bytes::connect_any;
use super::upstream::tls::Peer;
use egress_core::http::response_flags::ResponseFlag;
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::routing::{Cluster, RouteTable};
use egress_core::traffic::{ClusterId, UpstreamProtocol};
use egress_ebpf::ids::PolicyId;
use std::borrow::Cow;
use std::future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Closes a connection that no rule allows, or relays it if its policy audits. `ahead` has the bytes that were
/// read.
pub(super) async fn deny(
    client: Client,
    ahead: Ahead,
    stream: TcpStream,
    reason: DenialReason,
    name: Option<&str>,
) {
    if let Some(cluster) = client.audited(&reason, name) {
        return relay(client, ahead, stream, &cluster).await;
    }
    end_denied(&client, reason, name);
}

/// Records a connection that is denied before it has a destination.
pub(super) fn end_denied(client: &Client, reason: DenialReason, name: Option<&str>) {
    let line = client.logged(|| {
        let protocol = name.map_or(Protocol::Tcp, |_| Protocol::Tls);
        let mut ticket = Ticket::new(client.clone(), protocol, Arc::default());
        name.unwrap_or_default().clone_into(&mut ticket.record.host);
        let port = client.origin.destination.port();
        ticket.record.cluster = Some(ClusterId::new(ClusterId::BLACK_HOLE, port));
        ticket.flag(ResponseFlag::UH);
        Some(ticket)
    });
    client.deny(reason, name);
    drop(line);
}

/// Relays a connection. `ahead` has the bytes that were read.
pub(super) async fn relay(client: Client, ahead: Ahead, stream: TcpStream, cluster: &Arc<Cluster>) {
    let ticket = |counters| Ticket::new(client.clone(), Protocol::Tcp, counters);
    let origin = Arc::clone(&client.origin);
    let listed = |routes: &RouteTable, policy| {
        let dialled = origin.destination;
        routes.lists_tcp(policy, dialled) && routes.keeps_bytes(policy, dialled, cluster)
    };
    let downstream = Rewound::new(ahead, stream);
    forward(&client, downstream, ticket, cluster, listed).await;
}

/// Connects to one of the destination's addresses and copies until both sides have ended, or the
/// owner's policy no longer lists what `listed` asks for. That is checked before anything is sent,
/// because the client may have waited until then.
pub(super) async fn forward(
    client: &Client,
    mut downstream: Rewound,
    ticket: impl FnOnce(Arc<Counters>) -> Ticket,
    cluster: &Arc<Cluster>,
    listed: impl Fn(&RouteTable, PolicyId) -> bool,
) {
    let mut ticket = ticket(downstream.counters());
    ticket.record.cluster = Some(cluster.id.clone());
    let deny = |ticket: &Ticket, reason| {
        let name = Some(ticket.record.host.as_str()).filter(|name| !name.is_empty());
        client.deny(reason, name);
    };
    let removed = |ticket: &mut Ticket| {
        deny(ticket, DenialReason::Removed);
        ticket.flag(ResponseFlag::UC);
    };
    if !client.may(&listed) {
        return removed(&mut ticket);
    }
    let workload = client.workload(cluster);
    let hash = client.source_hash(cluster);
    let mut order = client.addresses_of(cluster, workload.as_deref(), hash);
    if let Some(port) = cluster.dynamic {
        let name = ticket.record.host.clone();
        match client.addresses_by_name(cluster, port, &name).await {
            Some(found) => order = found,
            None => return ticket.flag(ResponseFlag::DF),
        }
    }
    if order.is_empty() {
        let name = Some(ticket.record.host.as_str()).filter(|n| !n.is_empty());
        let reason = DenialReason::NoEndpoint(cluster.id.host.to_string());
        let Some(dialled) = client.audited(&reason, name) else {
            client.deny(reason, name);
            return ticket.flag(ResponseFlag::UH);
        };
        order = client.addresses_of(&dialled, None, None);
    }
    let pool = &cluster.policy.pool;
    let counted = workload.as_ref().filter(|_| pool.counts());
    let Ok(_connection) = counted.map(|w| w.usage.connection(pool)).transpose() else {
        let reason = DenialReason::ConnectionPool(cluster.id.host.to_string());
        deny(&ticket, reason);
        return ticket.flag(ResponseFlag::UO);
    };
    // The client's own HTTP/2 is nothing that a tunnel's proxy is asked with.
    let http2 = cluster.policy.tunnel.is_some() && cluster.protocol == UpstreamProtocol::Http2;
    let tls = cluster.policy.tls.as_ref();
    let peer = tls.map(|tls| Peer::of_bytes(tls, http2));
    let state = workload.as_deref();
    let to = (&**cluster, state, peer.as_ref());
    let connected = connect_any(client, to, &order, &mut ticket.record).await;
    let address = ticket.record.upstream;
    let _load = workload.zip(address).map(|(w, address)| w.load(address));
    let idle = pool.tcp_idle_timeout.unwrap_or(client.shared.limits.idle);
    match connected {
        Ok(Connected {
            stream: mut upstream,
            place: _place,
            ..
        }) => {
            ticket.record.upstream_local = client.logged(|| upstream.local());
            tokio::select! {
                // Checked first, so that no byte follows a change that happened during the connect.
                biased;
                () = client.removed(&listed) => removed(&mut ticket),
                () = life(pool.max_connection_duration) => ticket.flag(ResponseFlag::DT),
                ended = relay::relay(client, &mut downstream, &mut upstream, idle) => match ended {
                    // A silent one is ended as Envoy ends it: without a flag.
                    Ok(Ended::Both | Ended::Silent) => ticket.done(),
                    Err(_) => match downstream.denied() {
                        Some(reason) => {
                            deny(&ticket, reason);
                            ticket.flag(ResponseFlag::UC);
                        }
                        // It is unknown which side broke off; both are closed.
                        None => ticket.flag(ResponseFlag::DC),
                    },
                },
            }
        }
        Err(reset) => {
            ticket.record.transport_failure = reset.logged_transport().map(Cow::Owned);
            if matches!(reset, UpstreamReset::Overflow(_)) {
                return ticket.flag(ResponseFlag::UO);
            }
            // Envoy's mark of a connect after which it makes no further one.
            ticket.flag(ResponseFlag::UF);
            ticket.flag(ResponseFlag::URX);
        }
    }
}

/// Fires at the end of a connection's life, if it has one.
async fn life(most: Option<Duration>) {
    match most {
        Some(most) => sleep(most).await,
        None => future::pending().await,
    }
}
