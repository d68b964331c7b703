//! `mirror` and `mirrors`: which requests a mirror gets, and what of them.

use crate::raw::{Message, Raw, fixed_origin, get, raw_origin};
use crate::streams;
use crate::support::{Bed, HOST, PATIENCE, cluster, split_port};
use crate::tls_origin::{Authority, Server, policy};
use egress_agent::proxy::CopyEnd;
use egress_core::istio::fields::Percent;
use egress_core::routing::{Cluster, Mirror, PortRoutes, Split};
use egress_core::traffic::{Fraction, RoutePolicy, UpstreamProtocol};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

pub const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
pub const OTHER: &str = "shadow.example";

/// Requests that reached an origin.
pub type Seen = mpsc::UnboundedReceiver<Message>;

/// An origin that answers, and passes on what it got.
pub async fn telling(reply: &'static str) -> (SocketAddr, Seen) {
    let (tell, seen) = mpsc::unbounded_channel();
    let address = raw_origin(move |_, mut raw| {
        let tell = tell.clone();
        async move {
            while let Some(message) = raw.message().await {
                tell.send(message).ok();
                raw.send(reply.as_bytes()).await;
            }
        }
    })
    .await;
    (address, seen)
}

/// An origin that reads one head and nothing else, and says when its connection ended.
pub async fn hanging() -> (SocketAddr, mpsc::UnboundedReceiver<&'static str>) {
    let (tell, told) = mpsc::unbounded_channel();
    let address = raw_origin(move |_, mut raw| {
        let tell = tell.clone();
        async move {
            raw.head().await;
            tell.send("head").ok();
            drop(timeout(PATIENCE, raw.rest()).await);
            tell.send("end").ok();
        }
    })
    .await;
    (address, told)
}

pub async fn next<T>(from: &mut mpsc::UnboundedReceiver<T>) -> T {
    let got = timeout(PATIENCE, from.recv()).await;
    got.expect("something").unwrap()
}

fn share(value: f64) -> Fraction {
    Fraction::of(&Percent { value })
}

pub fn all(cluster: Arc<Cluster>) -> Mirror {
    Mirror {
        cluster,
        share: Fraction::ALL,
    }
}

pub fn port(origin: SocketAddr, mirrors: Vec<Mirror>) -> PortRoutes {
    port_with(origin, mirrors, RoutePolicy::default())
}

fn port_with(origin: SocketAddr, mirrors: Vec<Mirror>, policy: RoutePolicy) -> PortRoutes {
    let to = Split::one(cluster(HOST, &[origin])).mirrored(mirrors);
    split_port(HOST, to, policy)
}

pub async fn bed(mirrors: Vec<Mirror>) -> Bed {
    Bed::new(port(fixed_origin(OK).await, mirrors)).await
}

/// One more request, which must be answered.
pub async fn passes(client: &mut Raw) {
    let reply = client.ask(&get(HOST, "/")).await;
    assert_eq!((reply.status(), reply.text()), (200, "ok"));
}

#[tokio::test]
async fn a_share_of_the_requests_is_copied() {
    for (percent, least, most) in [(0.0, 0, 0), (30.0, 65, 175), (100.0, 400, 400)] {
        let (mirror, mut seen) = telling(OK).await;
        let mirror = Mirror {
            cluster: cluster(OTHER, &[mirror]),
            share: share(percent),
        };
        let bed = bed(vec![mirror]).await;
        let mut client = bed.client().await;
        for _ in 0..400 {
            passes(&mut client).await;
        }
        drop(client);
        let mut count = 0;
        while let Ok(Some(_)) = timeout(Duration::from_millis(300), seen.recv()).await {
            count += 1;
        }
        assert!((least..=most).contains(&count), "{percent} %: {count}");
    }
}

#[tokio::test]
async fn a_mirror_gets_head_body_and_trailers_and_its_answer_is_dropped() {
    let (mirror, mut seen) = telling("HTTP/1.1 500 No\r\ncontent-length: 5\r\n\r\nerror").await;
    let bed = bed(vec![all(cluster(OTHER, &[mirror]))]).await;
    let mut client = bed.client().await;
    for (framing, body) in [
        ("content-length: 5", "hello"),
        (
            "transfer-encoding: chunked\r\ntrailer: x-end",
            "3\r\nhel\r\n2\r\nlo\r\n0\r\nx-end: 1\r\n\r\n",
        ),
    ] {
        let head =
            format!("POST /a?b HTTP/1.1\r\nHost: {HOST}:80\r\nx-own: 1\r\n{framing}\r\n\r\n");
        client.send(head.as_bytes()).await;
        let (first, rest) = body.split_at(4);
        client.send(first.as_bytes()).await;
        tokio::task::yield_now().await;
        client.send(rest.as_bytes()).await;
        assert_eq!(client.message().await.unwrap().text(), "ok");
        let copy = next(&mut seen).await;
        assert!(
            copy.head.starts_with("POST /a?b HTTP/1.1\r\n"),
            "{}",
            copy.head
        );
        assert_eq!(copy.text(), "hello");
        assert_eq!(copy.header("host"), Some("httpbin.org-shadow:80"));
        assert_eq!(copy.header("x-own"), Some("1"));
        assert_eq!(copy.header("x-envoy-internal"), Some("true"));
        assert_eq!(bed.copied().await, CopyEnd::Answered);
        let record = bed.record().await;
        assert_eq!((record.response_code, record.attempts), (200, 1));
    }
}

#[tokio::test]
async fn trailers_and_requests_of_http2_clients_are_copied() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let mirror = raw_origin(move |_, mut raw| {
        let tell = tell.clone();
        async move {
            let head = raw.head().await.unwrap();
            let mut body = Vec::new();
            while !body.ends_with(b"\r\n\r\n") {
                body.extend(raw.take(1).await.unwrap());
            }
            tell.send((head, String::from_utf8(body).unwrap())).ok();
            raw.send(OK.as_bytes()).await;
        }
    })
    .await;
    let bed = bed(vec![all(cluster(OTHER, &[mirror]))]).await;
    let chunked = "POST / HTTP/1.1\r\nHost: httpbin.org\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n\
                   5\r\nhello\r\n0\r\nx-end: 1\r\n\r\n";
    assert_eq!(bed.client().await.ask(chunked).await.status(), 200);
    let (_, body) = next(&mut told).await;
    assert!(
        body.starts_with("5\r\nhello\r\n0\r\n") && body.contains("x-end: 1"),
        "{body}"
    );

    let (mirror, mut seen) = telling(OK).await;
    bed.change(port(
        fixed_origin(OK).await,
        vec![all(cluster(OTHER, &[mirror]))],
    ));
    let mut client = streams::Client::new(&bed).await;
    assert_eq!(client.get(HOST, "/two").await.status, 200);
    let copy = next(&mut seen).await;
    assert!(
        copy.head.starts_with("GET /two HTTP/1.1\r\n"),
        "{}",
        copy.head
    );
    assert_eq!(copy.header("host"), Some("httpbin.org-shadow"));
}

#[tokio::test]
async fn each_mirror_gets_its_copy_over_a_connection_that_is_kept() {
    let (one, mut of_one) = telling(OK).await;
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (tell, mut of_two) = mpsc::unbounded_channel();
    let counted = Arc::clone(&connections);
    let two = raw_origin(move |_, mut raw| {
        let tell = tell.clone();
        counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            while let Some(message) = raw.message().await {
                raw.send(OK.as_bytes()).await;
                tell.send(message).ok();
            }
        }
    })
    .await;
    let mirrors = [("one.example", one), ("two.example", two)];
    let mirrors = mirrors.map(|(host, at)| all(cluster(host, &[at])));
    let bed = bed(mirrors.to_vec()).await;
    let mut client = bed.client().await;
    for _ in 0..3 {
        passes(&mut client).await;
        next(&mut of_one).await;
        next(&mut of_two).await;
        for _ in 0..2 {
            assert_eq!(bed.copied().await, CopyEnd::Answered);
        }
    }
    assert_eq!(connections.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_copy_has_the_timeout_of_the_route() {
    let (hangs, mut told) = hanging().await;
    let policy = RoutePolicy {
        timeout: Some(Duration::from_millis(300)),
        ..RoutePolicy::default()
    };
    let mirrors = vec![all(cluster(OTHER, &[hangs]))];
    let bed = Bed::new(port_with(fixed_origin(OK).await, mirrors, policy)).await;
    passes(&mut bed.client().await).await;
    assert_eq!(next(&mut told).await, "head");
    assert_eq!(next(&mut told).await, "end");
    assert_eq!(bed.copied().await, CopyEnd::Failed);
}

#[tokio::test]
async fn a_request_that_reaches_no_endpoint_and_an_upgrade_are_not_copied() {
    let (mirror, mut seen) = telling(OK).await;
    let mirrors = || vec![all(cluster(OTHER, &[mirror]))];
    let nowhere = Split::one(cluster(HOST, &[])).mirrored(mirrors());
    let bed = Bed::new(split_port(HOST, nowhere, RoutePolicy::default())).await;
    let reply = bed.client().await.ask(&get(HOST, "/")).await;
    assert_eq!((reply.status(), reply.text()), (503, "no healthy upstream"));
    let upgraded =
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    bed.change(port(fixed_origin(upgraded).await, mirrors()));
    let mut client = bed.client().await;
    let asked = format!(
        "GET / HTTP/1.1\r\nHost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    client.send(asked.as_bytes()).await;
    assert!(client.head().await.unwrap().starts_with("HTTP/1.1 101"));
    // A copy would be there before that of the next request.
    passes_to(&bed, fixed_origin(OK).await, mirrors()).await;
    assert!(next(&mut seen).await.head.starts_with("GET / "));
    let quiet = timeout(Duration::from_millis(200), seen.recv()).await;
    assert!(quiet.is_err(), "one copy only");
}

async fn passes_to(bed: &Bed, origin: SocketAddr, mirrors: Vec<Mirror>) {
    bed.change(port(origin, mirrors));
    passes(&mut bed.client().await).await;
}

#[tokio::test]
async fn a_copy_leaves_as_tls_where_the_mirrors_rule_says_so() {
    let authority = Authority::new();
    let identity = authority.identity(&[OTHER]);
    let server = Server::new(authority.server(&identity, false)).await;
    let mut tls = authority.simple();
    tls.sni = Some(OTHER.into());
    let verify = tls.verify.as_mut().unwrap();
    (verify.host, verify.names) = (false, [OTHER.into()].into());
    let mirror = Cluster {
        policy: policy(tls),
        ..Cluster::clone(&cluster(OTHER, &[server.address]))
    };
    let bed = bed(vec![all(Arc::new(mirror))]).await;
    passes(&mut bed.client().await).await;
    assert_eq!(bed.copied().await, CopyEnd::Answered);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_mirror_whose_port_is_http2_gets_a_stream() {
    let (tell, mut told) = mpsc::unbounded_channel();
    let mirror = streams::origin(move |request, mut respond| {
        let tell = tell.clone();
        async move {
            let (parts, mut body) = request.into_parts();
            let (bytes, _) = streams::read(&mut body).await.unwrap();
            tell.send((parts.uri.to_string(), bytes)).ok();
            respond.send_response(streams::ok(), true).unwrap();
        }
    })
    .await;
    let mirror = Cluster {
        protocol: UpstreamProtocol::Http2,
        ..Cluster::clone(&cluster(OTHER, &[mirror]))
    };
    let bed = bed(vec![all(Arc::new(mirror))]).await;
    let mut client = bed.client().await;
    let post = format!("POST /a HTTP/1.1\r\nHost: {HOST}\r\ncontent-length: 3\r\n\r\nabc");
    for (request, path, body) in [(post, "/a", "abc"), (get(HOST, "/b"), "/b", "")] {
        assert_eq!(client.ask(&request).await.status(), 200);
        let (uri, got) = next(&mut told).await;
        assert_eq!(uri, format!("http://httpbin.org-shadow{path}"));
        assert_eq!(got, body.as_bytes());
        assert_eq!(bed.copied().await, CopyEnd::Answered);
    }
}
