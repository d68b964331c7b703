//! Resolution NONE: the proxy dials what the client dialled, but not into the machine itself.

use crate::raw::*;
use crate::support::*;
use egress_agent::proxy::{DenialReason, Limits};
use egress_core::routing::{Cluster, PortKind, PortRoutes, Split, TlsRoute, VirtualHost};
use egress_core::traffic::ClusterId;
use std::net::SocketAddr;
use std::sync::Arc;

/// A port with one host, which is at the address that the client dials, on the port of `origin`.
fn as_dialled(origin: SocketAddr, nets: &[&str]) -> PortRoutes {
    let cluster = Arc::new(Cluster {
        id: ClusterId::new(HOST, PORT),
        original_dst: Some(origin.port()),
        nets: nets.iter().map(|net| net.parse().unwrap()).collect(),
        ..Cluster::default()
    });
    let route = forwarding(Split::one(Arc::clone(&cluster)));
    PortRoutes {
        kind: PortKind::Sniff,
        hosts: vec![Arc::new(VirtualHost {
            host: HOST.into(),
            nets: vec![],
            routes: vec![Arc::new(route)],
        })]
        .into(),
        tls: vec![Arc::new(TlsRoute {
            sni_hosts: vec![HOST.into()],
            nets: vec![],
            to: Split::one(cluster),
        })]
        .into(),
        ..PortRoutes::default()
    }
}

async fn bed(dialled: &str, nets: &[&str]) -> Bed {
    let bind = if dialled.starts_with('[') {
        "[::1]:0"
    } else {
        "127.0.0.1:0"
    };
    let reply = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ninside";
    let origin = raw_origin_on(bind, move |_, mut raw| async move {
        while raw.message().await.is_some() {
            raw.send(reply.as_bytes()).await;
        }
    })
    .await;
    let port = as_dialled(origin, nets);
    Bed::with(port, Some(destination(dialled)), Limits::default()).await
}

#[tokio::test]
async fn a_rule_for_any_address_does_not_lead_into_the_machine_by_host_or_by_server_name() {
    // The first two have a server. A test cannot make one at the others.
    for dialled in [
        "127.0.0.1:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
        "169.254.169.254:80",
        "[fd00:ec2::254]:80",
        "[fe80::1]:80",
    ] {
        let bed = bed(dialled, &[]).await;
        let reply = bed.client().await.ask(&get(HOST, "/")).await;
        assert_eq!(reply.status(), 502, "{dialled}");
        assert_eq!(bed.denial().await, DenialReason::UnlistedHost, "{dialled}");
        assert_eq!(
            bed.record().await.attempts,
            0,
            "{dialled}: nothing is dialled"
        );
        let mut client = bed.client().await;
        client.send(&crate::tls::real_hello(HOST)).await;
        assert!(client.rest().await.is_empty(), "{dialled}");
        assert_eq!(bed.denial().await, DenialReason::UnlistedName, "{dialled}");
    }
}

#[tokio::test]
async fn an_address_inside_that_a_rule_lists_is_dialled() {
    for (dialled, net) in [("127.0.0.1:80", "127.0.0.0/8"), ("[::1]:80", "::1/128")] {
        let bed = bed(dialled, &[net]).await;
        let reply = bed.client().await.ask(&get(HOST, "/")).await;
        assert_eq!((reply.status(), reply.text()), (200, "inside"), "{dialled}");
    }
}
