//! A proxy on loopback with a simulated lookup of original destinations, and its routes. Clients and origins are in
//! `raw`.

use crate::raw::Raw;
use arc_swap::ArcSwap;
use egress_agent::proxy::{
    AccessRecord, BoxFuture, CopyEnd, Denial, DenialReason, Dialer, Drain, Limits, NameResolver,
    Observer, Origin, OriginLookup, Shared, drain_channel, serve,
};
use egress_agent::secret_store::SecretStore;
use egress_core::access_log::AccessFormat;
use egress_core::policy::leases::{Answer, Failure};
use egress_core::routing::{
    ByName, Cluster, HttpRoute, PolicyRoutes, PortKind, PortRoutes, RouteTable, Split, TcpRoute,
    TlsRoute, VirtualHost,
};
use egress_core::traffic::{ClusterId, HttpAction, RoutePolicy};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

/// Only something that hangs takes this long.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const POLICY: PolicyId = PolicyId(7);
/// The cgroup of [`destination`]'s flow. Its policy in a [`table`] is [`POLICY`].
pub const OWNER: CgroupId = CgroupId(1);
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

/// Names and their addresses. Each question is counted.
#[derive(Default)]
pub struct FixedNames {
    pub known: std::sync::Mutex<BTreeMap<String, Vec<IpAddr>>>,
    pub asked: AtomicUsize,
}

impl NameResolver for FixedNames {
    fn resolve(&self, name: &str) -> BoxFuture<'_, Result<Answer, Failure>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let addresses = self.known.lock().unwrap().get(name).cloned();
        let ttl = Duration::from_secs(1);
        let answer = addresses.map(|addresses| Answer { addresses, ttl });
        Box::pin(async move { answer.ok_or(Failure::NoSuchName) })
    }

    /// No workload asked for a name.
    fn leases(&self, _: &str, _: IpAddr) -> bool {
        false
    }
}

struct Recorder {
    denials: mpsc::UnboundedSender<Denial>,
    records: mpsc::UnboundedSender<AccessRecord>,
    copies: mpsc::UnboundedSender<CopyEnd>,
    /// The access log is on.
    logs: bool,
}

impl Observer for Recorder {
    fn denied(&self, _: Option<&Origin>, denial: &Denial) {
        self.denials.send(denial.clone()).ok();
    }

    fn access_format(&self) -> Option<Arc<AccessFormat>> {
        static FORMAT: LazyLock<Arc<AccessFormat>> =
            LazyLock::new(|| Arc::new(AccessFormat::json(None).unwrap()));
        self.logs.then(|| Arc::clone(&FORMAT))
    }

    fn finished(&self, _: &Origin, record: &AccessRecord) {
        self.records.send(record.clone()).ok();
    }

    fn copied(&self, _: &Origin, end: CopyEnd) {
        self.copies.send(end).ok();
    }
}

/// A proxy that is running.
pub struct Bed {
    pub proxy: SocketAddr,
    pub drain: Drain,
    /// The original destination and owner of the connections that are accepted from now on.
    pub origin: Arc<ArcSwap<Option<Origin>>>,
    pub routes: Arc<ArcSwap<RouteTable>>,
    changes: watch::Sender<u64>,
    pub serving: JoinHandle<()>,
    pub shared: Arc<Shared>,
    pub secrets: Arc<SecretStore>,
    pub names: Arc<FixedNames>,
    denials: Mutex<mpsc::UnboundedReceiver<Denial>>,
    pub records: Mutex<mpsc::UnboundedReceiver<AccessRecord>>,
    copies: Mutex<mpsc::UnboundedReceiver<CopyEnd>>,
}

pub fn destination(addr: &str) -> Origin {
    Origin {
        destination: addr.parse().unwrap(),
        policy: POLICY,
        cgroup: OWNER,
        owners: vec![OWNER],
        sharer: OWNER,
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
        let (copies, copies_in) = mpsc::unbounded_channel();
        let (drain, signal) = drain_channel();
        let shared = Shared::new(
            Arc::clone(&routes),
            Arc::new(FixedOrigin(Arc::clone(&origin))),
            Arc::new(DirectDialer),
            Arc::new(Recorder {
                denials,
                records,
                copies,
                logs: true,
            }),
            limits,
        );
        let (changes, heard) = watch::channel(0);
        let secrets = Arc::<SecretStore>::default();
        let names = Arc::<FixedNames>::default();
        let shared = shared
            .ending_removed(heard)
            .resolving(Arc::clone(&names) as Arc<dyn NameResolver>)
            .presenting(&[std::env::temp_dir()], &secrets);
        let shared = Arc::new(shared);
        let serving = tokio::spawn(serve(Arc::new(listener), Arc::clone(&shared), signal));
        Self {
            proxy,
            drain,
            origin,
            routes,
            changes,
            serving,
            shared,
            secrets,
            names,
            denials: Mutex::new(denials_in),
            records: Mutex::new(records_in),
            copies: Mutex::new(copies_in),
        }
    }

    /// Puts other routes in force, and notifies running connections.
    pub fn change(&self, port: PortRoutes) {
        self.put(table(port));
    }

    pub fn put(&self, routes: RouteTable) {
        self.routes.store(Arc::new(routes));
        self.changes.send_modify(|n| *n += 1);
    }

    /// Waits until the proxy counts as much memory as `fits` accepts. Returns its bytes.
    pub async fn memory(&self, fits: impl Fn(usize) -> bool) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            let memory = self.shared.in_use().memory;
            if fits(memory.used) {
                return memory.used;
            }
            assert!(Instant::now() < until, "{memory:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn client(&self) -> Raw {
        Raw::new(TcpStream::connect(self.proxy).await.unwrap())
    }

    pub async fn denial(&self) -> DenialReason {
        let told = self.told().await;
        assert!(!told.audit, "{told:?}");
        told.reason
    }

    /// The next flow that no rule allows, denied or recorded.
    pub async fn told(&self) -> Denial {
        timeout(PATIENCE, self.denials.lock().await.recv())
            .await
            .expect("a denial")
            .unwrap()
    }

    /// How the next copy of a request ended.
    pub async fn copied(&self) -> CopyEnd {
        timeout(PATIENCE, self.copies.lock().await.recv())
            .await
            .expect("a copy")
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
        owners: Arc::new([(OWNER, POLICY)].into()),
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
    let policy = RoutePolicy {
        timeout,
        ..RoutePolicy::default()
    };
    port_of(host, endpoints, policy)
}

/// A route that forwards every request, without other settings.
pub fn forwarding(to: Split) -> HttpRoute {
    HttpRoute {
        matches: vec![],
        action: Ok(HttpAction::Forward(to)),
        policy: Arc::default(),
    }
}

/// A port with one listed host, and the policy of its only route.
pub fn port_of(host: &str, endpoints: &[SocketAddr], policy: RoutePolicy) -> PortRoutes {
    split_port(host, Split::one(cluster(host, endpoints)), policy)
}

/// The same with these destinations.
pub fn split_port(host: &str, to: Split, policy: RoutePolicy) -> PortRoutes {
    let routes = vec![Arc::new(HttpRoute {
        policy: Arc::new(policy),
        ..forwarding(to)
    })];
    PortRoutes {
        hosts: vec![Arc::new(VirtualHost {
            host: host.into(),
            nets: vec![],
            routes,
        })]
        .into(),
        ..PortRoutes::default()
    }
}

/// A port that relays bytes of flows to 192.0.2.1.
pub fn tcp_port_to(cluster: Cluster) -> PortRoutes {
    let route = TcpRoute {
        nets: vec!["192.0.2.1/32".parse().unwrap()],
        sniffed: false,
        to: Split::one(Arc::new(cluster)),
    };
    PortRoutes {
        tcp: vec![Arc::new(route)].into(),
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
        tls: tls.into(),
        ..PortRoutes::default()
    }
}

/// The entries of a list.
pub fn entries<T>(list: &ByName<T>) -> Vec<Arc<T>> {
    list.iter().map(|(_, entry)| Arc::clone(entry)).collect()
}
