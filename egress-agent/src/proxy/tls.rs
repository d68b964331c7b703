//! TLS passthrough: reads the `ClientHello`, decides by its name, and copies bytes both ways.
//!
//! It never decrypts, holds no key and changes no byte.

use super::flow::{Client, Rewound, Ticket};
use super::{Protocol, RefusalReason, tcp};
use egress_core::routing::{Cluster, RouteTable, TlsDecision, Turn};
use egress_core::tls::client_hello::{ClientHello, HelloOutcome, HelloReader};
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Serves one connection; `ahead` is what was read of it so far. `otherwise` is where it goes if
/// no listed name is in it; without one it is refused then.
pub(super) async fn pass_through(
    client: Client,
    mut stream: TcpStream,
    mut ahead: Vec<u8>,
    otherwise: Option<Arc<Cluster>>,
) {
    let limit = client.shared.limits.name;
    let found = match timeout(limit, read_hello(&mut stream, &mut ahead)).await {
        Ok(Ok(hello)) => hello.name.ok_or(RefusalReason::NoServerName),
        Ok(Err(RefusalReason::EndedEarly)) if ahead.is_empty() => return,
        Ok(Err(reason)) => Err(reason),
        Err(_) => Err(RefusalReason::NameTimeout),
    };
    let name = match (found, otherwise) {
        (Ok(name), _) => name.into_string(),
        (Err(_), Some(cluster)) => return tcp::relay(client, ahead, stream, &cluster).await,
        (Err(reason), None) => return tcp::refuse(client, ahead, stream, reason, None).await,
    };
    let decision = {
        let origin = &client.origin;
        let routes = client.shared.routes.load();
        routes.tls(
            origin.policy_in(&routes),
            origin.destination,
            Some(&name),
            Turn::Next,
        )
    };
    match decision {
        TlsDecision::Forward(cluster) => {
            let ticket = |counters| {
                let mut ticket = Ticket::new(client.clone(), Protocol::Tls, counters);
                ticket.record.host.clone_from(&name);
                ticket
            };
            let origin = Arc::clone(&client.origin);
            let listed = |routes: &RouteTable, policy| {
                routes.lists_server(policy, origin.destination, Some(&name))
            };
            let downstream = Rewound::new(ahead, stream);
            tcp::forward(&client, downstream, ticket, &cluster, listed).await;
        }
        TlsDecision::NotCarriedOut(why) => {
            let reason = RefusalReason::NotCarriedOut(why);
            tcp::refuse(client, ahead, stream, reason, Some(&name)).await;
        }
        TlsDecision::UnlistedName => {
            let reason = RefusalReason::UnlistedName;
            tcp::refuse(client, ahead, stream, reason, Some(&name)).await;
        }
        TlsDecision::NoCluster(cluster) => {
            let reason = RefusalReason::NoCluster(cluster.host.clone());
            tcp::refuse(client, ahead, stream, reason, Some(&name)).await;
        }
    }
}

async fn read_hello(
    stream: &mut TcpStream,
    ahead: &mut Vec<u8>,
) -> Result<ClientHello, RefusalReason> {
    let mut reader = HelloReader::default();
    let mut read = 0;
    loop {
        match reader.push(&ahead[read..]) {
            HelloOutcome::NeedMore => {}
            HelloOutcome::Hello(hello) => return Ok(hello),
            HelloOutcome::Invalid(error) => return Err(RefusalReason::BadHello(error)),
        }
        read = ahead.len();
        match stream.read_buf(ahead).await {
            Ok(0) | Err(_) => return Err(RefusalReason::EndedEarly),
            Ok(_) => {}
        }
    }
}
