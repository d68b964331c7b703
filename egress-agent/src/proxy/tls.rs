//! TLS passthrough: reads the `ClientHello`, decides by its name, and copies bytes both ways.
//!
//! It never decrypts, holds no key and changes no byte.

use super::flow::{Client, Rewound, Ticket};
use super::upstream::connect_any;
use super::{Protocol, RefusalReason};
use egress_core::http::local_reply::ResponseFlag;
use egress_core::routing::{Cluster, RouteTable, TlsDecision, candidates};
use egress_core::tls::client_hello::{ClientHello, HelloOutcome, HelloReader};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Serves one connection; `ahead` is what was read of it so far.
pub(super) async fn pass_through(client: Client, mut stream: TcpStream, mut ahead: Vec<u8>) {
    let hello = match timeout(
        client.shared.limits.name,
        read_hello(&mut stream, &mut ahead),
    )
    .await
    {
        Ok(Ok(hello)) => hello,
        Ok(Err(RefusalReason::EndedEarly)) if ahead.is_empty() => return,
        Ok(Err(reason)) => return client.refuse(reason, None),
        Err(_) => return client.refuse(RefusalReason::NameTimeout, None),
    };
    let Some(name) = hello.name else {
        return client.refuse(RefusalReason::NoServerName, None);
    };
    let name = name.into_string();
    let decision = {
        let origin = &client.origin;
        client
            .shared
            .routes
            .load()
            .tls(origin.policy, origin.destination.port(), Some(&name))
    };
    match decision {
        TlsDecision::Forward(cluster) => {
            forward(client, Rewound::new(ahead, stream), name, &cluster).await;
        }
        TlsDecision::UnlistedName => client.refuse(RefusalReason::UnlistedName, Some(&name)),
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

async fn forward(client: Client, mut downstream: Rewound, name: String, cluster: &Arc<Cluster>) {
    let mut ticket = Ticket::new(client.clone(), Protocol::Tls, downstream.counters());
    ticket.record.host = name;
    ticket.record.service = Some(cluster.host.clone());
    let order = candidates(
        cluster,
        client.origin.destination,
        client.shared.next_turn(),
    );
    if order.is_empty() {
        return ticket.flag(ResponseFlag::UH);
    }
    let name = ticket.record.host.clone();
    let (policy, port) = (client.origin.policy, client.origin.destination.port());
    let listed = |routes: &RouteTable| {
        matches!(
            routes.tls(policy, port, Some(&name)),
            TlsDecision::Forward(_)
        )
    };
    match connect_any(&client, &order, &mut ticket.record).await {
        Ok(mut upstream) => tokio::select! {
            copied = copy_bidirectional(&mut downstream, &mut upstream) => match copied {
                Ok(_) => ticket.done(),
                // Which side broke off is not told; both are closed.
                Err(_) => ticket.flag(ResponseFlag::DC),
            },
            () = client.shared.removed(listed) => {
                client.refuse(RefusalReason::Removed, Some(&name));
                ticket.flag(ResponseFlag::UC);
            }
        },
        Err(_) => ticket.flag(ResponseFlag::UF),
    }
}
