//! Which kept connection to an endpoint a request gets, and which are closed: those to other addresses of a logical host,
//! and those to former endpoints.

use crate::raw::{Raw, get, raw_origin, refused_address};
use crate::support::{Bed, HOST, PATIENCE, cluster, destination, forwarding};
use bytes::Bytes;
use egress_agent::proxy::Limits;
use egress_core::routing::{Cluster, PortRoutes, Split, VirtualHost};
use egress_core::traffic::UpstreamProtocol;
use h2::server::SendResponse;
use hyper::Response;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio::time::timeout;

/// An origin of HTTP/2 or HTTP/1.1 that answers every request.
struct Origin {
    at: SocketAddr,
    connections: Arc<AtomicUsize>,
    /// Hears of the end of each connection.
    ended: UnboundedReceiver<()>,
}

impl Origin {
    async fn new(http2: bool) -> Self {
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let (tell, ended) = mpsc::unbounded_channel();
        let at = raw_origin(move |_, raw: Raw| {
            count.fetch_add(1, Ordering::SeqCst);
            let tell = tell.clone();
            async move {
                if http2 {
                    answers_streams(raw).await;
                } else {
                    answers(raw).await;
                }
                tell.send(()).ok();
            }
        })
        .await;
        Self {
            at,
            connections,
            ended,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    async fn end(&mut self) {
        let ended = timeout(PATIENCE, self.ended.recv()).await;
        ended.expect("the connection is closed").unwrap();
    }
}

async fn answers(mut raw: Raw) {
    while raw.message().await.is_some() {
        raw.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await;
    }
}

async fn answers_streams(raw: Raw) {
    let mut connection = h2::server::handshake(raw.stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        let respond: &mut SendResponse<Bytes> = &mut respond;
        let head = Response::builder().body(()).unwrap();
        let mut body = respond.send_response(head, false).unwrap();
        body.send_data(Bytes::from_static(b"ok"), true).unwrap();
    }
}

fn service(name: &str, endpoint: SocketAddr, http2: bool) -> Cluster {
    Cluster {
        protocol: if http2 {
            UpstreamProtocol::Http2
        } else {
            UpstreamProtocol::Http1
        },
        ..Cluster::clone(&cluster(name, &[endpoint]))
    }
}

fn port(clusters: Vec<Cluster>) -> PortRoutes {
    let host = |cluster: Cluster| {
        Arc::new(VirtualHost {
            host: cluster.id.host.to_string(),
            nets: vec![],
            routes: vec![Arc::new(forwarding(Split::one(Arc::new(cluster))))],
        })
    };
    PortRoutes {
        hosts: clusters.into_iter().map(host).collect::<Vec<_>>().into(),
        ..PortRoutes::default()
    }
}

#[tokio::test]
async fn a_kept_connection_to_a_further_address_of_a_logical_host_is_used_again() {
    for http2 in [false, true] {
        let origin = Origin::new(http2).await;
        let cluster = Cluster {
            named: true,
            further: vec![origin.at],
            ..service(HOST, refused_address(), http2)
        };
        let bed = Bed::new(port(vec![cluster.clone()])).await;
        let mut client = bed.client().await;
        for _ in 0..4 {
            assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
            let record = bed.record().await;
            assert_eq!((record.upstream, record.attempts), (Some(origin.at), 1));
        }
        assert_eq!(origin.connections(), 1, "HTTP/2: {http2}");
        // The name has other addresses.
        let other = Origin::new(http2).await;
        bed.change(port(vec![Cluster {
            further: vec![other.at],
            ..cluster
        }]));
        assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
        assert_eq!((origin.connections(), other.connections()), (1, 1));
    }
}

#[tokio::test]
async fn an_idle_connection_to_a_former_endpoint_is_closed() {
    for http2 in [false, true] {
        let (mut before, now) = (Origin::new(http2).await, Origin::new(http2).await);
        let bed = Bed::new(port(vec![service(HOST, before.at, http2)])).await;
        let mut client = bed.client().await;
        assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
        bed.change(port(vec![service(HOST, now.at, http2)]));
        assert_eq!(client.ask(&get(HOST, "/")).await.status(), 200);
        before.end().await;
        assert_eq!(now.connections(), 1);
    }
}

#[tokio::test]
async fn a_client_keeps_a_bounded_number_of_idle_http2_connections() {
    let (mut first, second) = (Origin::new(true).await, Origin::new(true).await);
    let limits = Limits {
        idle_upstreams: 1,
        ..Limits::default()
    };
    let services = vec![
        service("a.example", first.at, true),
        service("b.example", second.at, true),
    ];
    let bed = Bed::with(port(services), Some(destination("192.0.2.1:80")), limits).await;
    let mut client = bed.client().await;
    for host in ["a.example", "b.example", "b.example"] {
        assert_eq!(client.ask(&get(host, "/")).await.status(), 200);
    }
    first.end().await;
    assert_eq!((first.connections(), second.connections()), (1, 1));
}
