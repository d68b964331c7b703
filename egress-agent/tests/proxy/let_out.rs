//! A policy that lets out what is not listed (`ALLOW_ANY`): listed names follow their rules all the same, whatever came
//! first on the connection and however late it came.

use crate::raw::{fixed_origin, get};
use crate::streams::{Client, ok, origin};
use crate::support::{Bed, HOST, PATIENCE, POLICY, destination, http_port, table};
use egress_agent::proxy::Limits;
use egress_core::routing::{PolicyRoutes, PortKind, PortRoutes, RouteTable};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A port of an address at which something listens, and of a host that is elsewhere.
async fn bed(dialled: SocketAddr, kind: PortKind) -> Bed {
    let listed = fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nlisted").await;
    let port = PortRoutes {
        kind,
        ..http_port(HOST, &[listed], None)
    };
    let policy = PolicyRoutes {
        ports: BTreeMap::from([(dialled.port(), Arc::new(port))]),
        passthrough: Arc::new(["0.0.0.0/0".parse().unwrap()]),
        ..PolicyRoutes::default()
    };
    let from = destination(&dialled.to_string());
    let limits = Limits {
        first_bytes: Duration::from_millis(50),
        ..Limits::default()
    };
    let bed = Bed::with(PortRoutes::default(), Some(from), limits).await;
    bed.put(RouteTable {
        policies: BTreeMap::from([(POLICY, Arc::new(policy))]),
        ..table(PortRoutes::default())
    });
    bed
}

#[tokio::test]
async fn each_request_follows_its_host() {
    let dialled = fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\ndialled").await;
    for kind in [PortKind::Http, PortKind::Sniff] {
        let bed = bed(dialled, kind).await;
        let mut client = bed.client().await;
        for (host, text) in [
            ("unlisted.example", "dialled"),
            (HOST, "listed"),
            ("unlisted.example", "dialled"),
        ] {
            client.send(get(host, "/").as_bytes()).await;
            assert_eq!(client.message().await.unwrap().text(), text, "{host}");
        }
    }
}

#[tokio::test]
async fn a_late_request_follows_its_host() {
    let dialled = fixed_origin("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\ndialled").await;
    for kind in [PortKind::Http, PortKind::Sniff] {
        let bed = bed(dialled, kind).await;
        let mut client = bed.client().await;
        // Some times the time for first bytes: nothing happens meanwhile.
        let early = timeout(Duration::from_millis(300), client.take(1)).await;
        assert!(early.is_err());
        client.send(get(HOST, "/").as_bytes()).await;
        assert_eq!(client.message().await.unwrap().text(), "listed");
    }
}

#[tokio::test]
async fn each_stream_follows_its_authority() {
    let dialled = origin(async |_, mut respond| {
        respond.send_response(ok(), true).unwrap();
    })
    .await;
    for kind in [PortKind::Http, PortKind::Sniff] {
        let bed = bed(dialled, kind).await;
        let mut client = Client::new(&bed).await;
        let replies = async {
            for (host, text) in [(HOST, "listed"), ("unlisted.example", "")] {
                assert_eq!(client.get(host, "/").await.text(), text, "{host}");
            }
        };
        timeout(PATIENCE, replies).await.unwrap();
    }
}
