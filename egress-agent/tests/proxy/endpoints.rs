//! A service without endpoints: a denial with a reason, for every kind of flow.

use crate::raw::*;
use crate::support::*;
use crate::tls::{NAME, real_hello};
use egress_agent::proxy::DenialReason;
use egress_core::routing::{PortKind, PortRoutes, Split, TcpRoute};
use std::sync::Arc;

#[tokio::test]
async fn a_flow_to_a_service_without_endpoints_is_denied_with_its_reason() {
    let http = http_port(HOST, &[], None);
    let tls = tls_port(PortKind::Tls, NAME, &[]);
    let tcp = PortRoutes {
        tcp: vec![Arc::new(TcpRoute {
            nets: vec!["192.0.2.1/32".parse().unwrap()],
            sniffed: false,
            to: Split::one(cluster("tcp.example", &[])),
        })]
        .into(),
        ..PortRoutes::default()
    };
    for (port, bytes, host) in [
        (http, get(HOST, "/").into_bytes(), HOST),
        (tls, real_hello(NAME), NAME),
        (tcp, b"SSH".to_vec(), "tcp.example"),
    ] {
        let bed = Bed::new(port).await;
        let mut client = bed.client().await;
        client.send(&bytes).await;
        if host == HOST {
            assert_eq!(client.message().await.unwrap().status(), 503);
        } else {
            assert!(client.rest().await.is_empty());
        }
        assert_eq!(bed.denial().await, DenialReason::NoEndpoint(host.into()));
        assert_eq!(bed.record().await.flags.to_string(), "UH");
    }
}
