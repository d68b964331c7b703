//! TLS passthrough: reads the `ClientHello`, decides by its name, and copies bytes both ways.
//!
//! It never decrypts, holds no key and changes no byte. Bytes after the hello pass `guard`.

use super::ahead::Ahead;
use super::client::Client;
use super::guard::Guard;
use super::observe::{DenialReason, Protocol};
use super::stream::Rewound;
use super::ticket::Ticket;
use crate::proxy::tcp;
use egress_core::routing::{Cluster, RouteTable, TlsDecision, Turn};
use egress_core::tls::client_hello::{ClientHello, HelloOutcome, HelloReader};
use std::io::ErrorKind;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Serves one connection. `ahead` has the bytes that were read. `otherwise` is its destination if it has no listed
/// name; without one it is denied.
pub(super) async fn pass_through(
    client: Client,
    mut stream: TcpStream,
    mut ahead: Ahead,
    otherwise: Option<Arc<Cluster>>,
) {
    let limit = client.shared.limits.name;
    let found = match timeout(limit, read_hello(&client, &mut stream, &mut ahead)).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(DenialReason::EndedEarly)) if ahead.is_empty() => return,
        Ok(Err(reason)) => Err(reason),
        Err(_) => Err(DenialReason::NameTimeout),
    };
    let (hello, length) = match (found, otherwise) {
        (Ok((hello, length)), None) => (hello, length),
        (Ok((hello, length)), Some(_)) if hello.name.is_some() => (hello, length),
        (_, Some(cluster)) => return tcp::relay(client, ahead, stream, &cluster).await,
        (Err(reason), None) => return tcp::deny(client, ahead, stream, reason, None).await,
    };
    let name = hello.name.as_ref().map(|name| name.as_str().to_owned());
    let name = name.as_deref();
    let (policy, decision) = {
        let origin = &client.origin;
        let routes = client.shared.routes.load();
        let policy = origin.policy_in(&routes);
        let decision = routes.tls(policy, origin.destination, name, Turn::Next);
        (policy, decision)
    };
    let reason = match decision {
        TlsDecision::Forward(cluster) => {
            let ticket = |counters| {
                let mut ticket = Ticket::new(client.clone(), Protocol::Tls, counters);
                name.unwrap_or_default().clone_into(&mut ticket.record.host);
                ticket
            };
            let origin = Arc::clone(&client.origin);
            let listed = |routes: &RouteTable, policy| {
                let dialled = origin.destination;
                routes.lists_server(policy, dialled, name)
                    && routes.keeps_server(policy, dialled, name, &cluster)
            };
            let behind = ahead.split_off(length);
            let mut guard = Guard::new(&client, hello.name.clone(), &behind);
            if let Some(reason) = guard.denied() {
                return tcp::end_denied(&client, reason, name);
            }
            let downstream = Rewound::guarded(ahead, guard, stream);
            return tcp::forward(&client, downstream, ticket, &cluster, listed).await;
        }
        TlsDecision::NotCarriedOut(why) => DenialReason::NotCarriedOut(why),
        TlsDecision::NoCluster(cluster) => DenialReason::NoCluster(cluster.id.host.to_string()),
        TlsDecision::UnlistedName if name.is_none() => {
            let routes = client.shared.routes.load();
            routes.no_server_name(policy, client.origin.destination)
        }
        TlsDecision::UnlistedName => DenialReason::UnlistedName,
    };
    tcp::deny(client, ahead, stream, reason, name).await;
}

/// Reads the first hello. Returns its length too.
async fn read_hello(
    client: &Client,
    stream: &mut TcpStream,
    ahead: &mut Ahead,
) -> Result<(ClientHello, usize), DenialReason> {
    let mut reader = HelloReader::default();
    let mut read = 0;
    loop {
        match reader.push(&ahead[read..]) {
            HelloOutcome::NeedMore => {}
            HelloOutcome::Hello(hello) => return Ok((hello, reader.taken())),
            HelloOutcome::Invalid(error) => return Err(DenialReason::BadHello(error)),
        }
        read = ahead.len();
        // The reader gathers the message once more.
        match ahead.read(client, stream, 2).await {
            Ok(1..) => {}
            Err(error) if error.kind() == ErrorKind::OutOfMemory => {
                return Err(DenialReason::MemoryLimit);
            }
            Ok(0) | Err(_) => return Err(DenialReason::EndedEarly),
        }
    }
}
