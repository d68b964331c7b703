//! A proxy on loopback with a made-up origin lookup, and raw clients and origins around it.

use arc_swap::ArcSwap;
use egress_agent::proxy::{
    AccessRecord, BoxFuture, Denial, DenialReason, Dialer, Drain, Limits, Observer, Origin,
    OriginLookup, Shared, drain_channel, serve,
};
use egress_core::routing::{
    Cluster, HttpRoute, PolicyRoutes, PortKind, PortRoutes, RouteTable, Split, TlsRoute,
    VirtualHost,
};
use egress_core::traffic::{ClusterId, RoutePolicy};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Nothing in these tests takes this long unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const POLICY: PolicyId = PolicyId(7);
pub const HOST: &str = "httpbin.org";
pub const PORT: u16 = 80;

struct FixedOrigin(Arc<ArcSwap<Option<Origin>>>);

impl OriginLookup for FixedOrigin {
    fn origin(&self, _: BorrowedFd<'_>) -> Option<Origin> {
        self.0.load().as_ref().clone()
    }
}

struct DirectDialer;

impl Dialer for DirectDialer {
    fn connect(
        &self,
        _: egress_ebpf::ids::NetnsCookie,
        to: SocketAddr,
    ) -> BoxFuture<'_, io::Result<TcpStream>> {
        Box::pin(TcpStream::connect(to))
    }
}

struct Recorder {
    denials: mpsc::UnboundedSender<Denial>,
    records: mpsc::UnboundedSender<AccessRecord>,
}

impl Observer for Recorder {
    fn denied(&self, _: Option<&Origin>, denial: &Denial) {
        self.denials.send(denial.clone()).ok();
    }

    fn finished(&self, _: &Origin, record: &AccessRecord) {
        self.records.send(record.clone()).ok();
    }
}

/// A proxy that is running.
pub struct Bed {
    pub proxy: SocketAddr,
    pub drain: Drain,
    /// Whose connections are accepted from here on.
    pub origin: Arc<ArcSwap<Option<Origin>>>,
    pub routes: Arc<ArcSwap<RouteTable>>,
    changes: watch::Sender<u64>,
    pub serving: JoinHandle<()>,
    denials: Mutex<mpsc::UnboundedReceiver<Denial>>,
    records: Mutex<mpsc::UnboundedReceiver<AccessRecord>>,
}

pub fn destination(addr: &str) -> Origin {
    Origin {
        destination: addr.parse().unwrap(),
        policy: POLICY,
        cgroup: CgroupId(1),
        owners: vec![],
        sharer: CgroupId(1),
        pid: 1,
        comm: "curl".into(),
        netns: egress_ebpf::ids::NetnsCookie(1),
    }
}

impl Bed {
    pub async fn new(port: PortRoutes) -> Self {
        Self::with(port, Some(destination("192.0.2.1:80")), Limits::default()).await
    }

    pub async fn with(port: PortRoutes, origin: Option<Origin>, limits: Limits) -> Self {
        Self::on("127.0.0.1:0", port, origin, limits).await
    }

    pub async fn on(bind: &str, port: PortRoutes, origin: Option<Origin>, limits: Limits) -> Self {
        let listener = TcpListener::bind(bind).await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let routes = Arc::new(ArcSwap::from_pointee(table(port)));
        let origin = Arc::new(ArcSwap::from_pointee(origin));
        let (denials, denials_in) = mpsc::unbounded_channel();
        let (records, records_in) = mpsc::unbounded_channel();
        let (drain, signal) = drain_channel();
        let shared = Shared::new(
            Arc::clone(&routes),
            Arc::new(FixedOrigin(Arc::clone(&origin))),
            Arc::new(DirectDialer),
            Arc::new(Recorder { denials, records }),
            limits,
        );
        let (changes, heard) = watch::channel(0);
        let shared = Arc::new(shared.ending_removed(heard));
        let serving = tokio::spawn(serve(Arc::new(listener), shared, signal));
        Self {
            proxy,
            drain,
            origin,
            routes,
            changes,
            serving,
            denials: Mutex::new(denials_in),
            records: Mutex::new(records_in),
        }
    }

    /// Other routes are in force, and running connections are notified.
    pub fn change(&self, port: PortRoutes) {
        self.put(table(port));
    }

    pub fn put(&self, routes: RouteTable) {
        self.routes.store(Arc::new(routes));
        self.changes.send_modify(|n| *n += 1);
    }

    pub async fn client(&self) -> Raw {
        Raw::new(TcpStream::connect(self.proxy).await.unwrap())
    }

    pub async fn denial(&self) -> DenialReason {
        let told = self.told().await;
        assert!(!told.audit, "{told:?}");
        told.reason
    }

    /// The next that no rule lets through, whatever became of it.
    pub async fn told(&self) -> Denial {
        timeout(PATIENCE, self.denials.lock().await.recv())
            .await
            .expect("a denial")
            .unwrap()
    }

    pub async fn record(&self) -> AccessRecord {
        timeout(PATIENCE, self.records.lock().await.recv())
            .await
            .expect("a record")
            .unwrap()
    }
}

pub fn table(port: PortRoutes) -> RouteTable {
    let policy = PolicyRoutes {
        ports: BTreeMap::from([(PORT, Arc::new(port))]),
        ..PolicyRoutes::default()
    };
    RouteTable {
        generation: 1,
        policies: BTreeMap::from([(POLICY, Arc::new(policy))]),
        ..RouteTable::default()
    }
}

pub fn cluster(host: &str, endpoints: &[SocketAddr]) -> Arc<Cluster> {
    Arc::new(Cluster {
        id: ClusterId::new(host, 80),
        endpoints: endpoints.to_vec(),
        ..Cluster::default()
    })
}

/// A port with one listed host.
pub fn http_port(host: &str, endpoints: &[SocketAddr], timeout: Option<Duration>) -> PortRoutes {
    let routes = vec![Arc::new(HttpRoute {
        policy: Arc::new(RoutePolicy { timeout }),
        ..HttpRoute::forwarding(Split::one(cluster(host, endpoints)))
    })];
    PortRoutes {
        hosts: vec![Arc::new(VirtualHost {
            host: host.into(),
            nets: vec![],
            routes,
        })],
        ..PortRoutes::default()
    }
}

pub fn tls_port(kind: PortKind, name: &str, endpoints: &[SocketAddr]) -> PortRoutes {
    let tls = vec![Arc::new(TlsRoute {
        sni_hosts: vec![name.into()],
        nets: vec![],
        to: Split::one(cluster(name, endpoints)),
    })];
    PortRoutes {
        kind,
        tls,
        ..PortRoutes::default()
    }
}

/// An address on which nobody listens.
pub async fn refused_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// A raw origin: each accepted connection is handed to `serve_one`, with its number from 0.
pub async fn raw_origin<F, R>(serve_one: F) -> SocketAddr
where
    F: Fn(usize, Raw) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    raw_origin_on("127.0.0.1:0", serve_one).await
}

/// The same on an address.
pub async fn raw_origin_on<F, R>(bind: &str, serve_one: F) -> SocketAddr
where
    F: Fn(usize, Raw) -> R + Send + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(bind).await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for number in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve_one(number, Raw::new(stream)));
        }
    });
    addr
}

/// An origin that answers every request on a connection with `reply`, having read its head and body.
pub async fn fixed_origin(reply: &'static str) -> SocketAddr {
    raw_origin(move |_, mut raw| async move {
        while raw.message().await.is_some() {
            raw.send(reply.as_bytes()).await;
        }
    })
    .await
}

/// An origin that answers with the head and body that it got.
pub async fn echo_origin() -> SocketAddr {
    raw_origin(|_, mut raw| async move {
        while let Some(message) = raw.message().await {
            let body = [message.head.as_bytes(), &message.body].concat();
            raw.send(
                format!(
                    "HTTP/1.1 200 OK\r\nserver: gunicorn\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                )
                .as_bytes(),
            )
            .await;
            raw.send(&body).await;
        }
    })
    .await
}

/// A message as it stood on the wire.
#[derive(Debug)]
pub struct Message {
    /// Up to and with the empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        header_of(&self.head, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

fn header_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// A connection spoken by hand.
pub struct Raw {
    pub stream: TcpStream,
    seen: Vec<u8>,
}

impl Raw {
    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            seen: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        // The other side may have left; what was seen of it is what a test judges.
        self.stream.write_all(bytes).await.ok();
    }

    async fn more(&mut self) -> bool {
        matches!(
            timeout(PATIENCE, self.stream.read_buf(&mut self.seen))
                .await
                .expect("bytes"),
            Ok(1..)
        )
    }

    /// The next head; `None` where the connection ends first.
    pub async fn head(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.seen.windows(4).position(|four| four == b"\r\n\r\n") {
                return Some(String::from_utf8(self.seen.drain(..at + 4).collect()).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next head with its body.
    pub async fn message(&mut self) -> Option<Message> {
        let head = self.head().await?;
        let mut body = Vec::new();
        if header_of(&head, "transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
                body.extend(self.take(size).await?);
                if size == 0 {
                    while !self.line().await?.is_empty() {}
                    break;
                }
                self.line().await?;
            }
        } else if let Some(length) = header_of(&head, "content-length") {
            body = self.take(length.parse().unwrap()).await?;
        }
        Some(Message { head, body })
    }

    pub async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.seen.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.seen.drain(..count).collect())
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(at) = self.seen.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.seen.drain(..at + 2).collect();
                return Some(String::from_utf8(line[..at].to_vec()).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// All bytes until the other side closes.
    pub async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.seen)
    }

    pub async fn ask(&mut self, request: &str) -> Message {
        self.send(request.as_bytes()).await;
        self.message().await.expect("a response")
    }
}

pub fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}
