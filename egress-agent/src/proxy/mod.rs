//! The proxy: takes redirected flows, learns the name each one asks for, and forwards, answers or
//! closes it as the current [`RouteTable`] says.
//!
//! It owns accepted connections and what is dialled for them. It makes no listening socket, reads no
//! BPF map and builds no routes: those come in through [`Shared`].

mod accept;
mod ahead;
mod control;
mod drain;
mod exchange;
mod flow;
mod guard;
mod http;
mod inspect;
mod local;
mod observe;
mod places;
mod reply_body;
mod request_body;
mod responses;
mod room;
mod tcp;
mod tls;
mod upstream;
mod wire;

pub use accept::serve;
pub use drain::{Drain, DrainSignal, drain_channel};
pub use observe::{AccessRecord, Observer, Protocol, Refusal, RefusalReason};

use arc_swap::ArcSwap;
use egress_core::routing::RouteTable;
use places::Places;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// A boxed future, for traits that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Who a redirected flow belongs to and where it wanted to go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// What the client dialled.
    pub destination: SocketAddr,
    /// The policy of the socket's owner when the flow was redirected.
    pub policy: u32,
    /// The cgroup id of the socket's owner.
    pub cgroup: u64,
    /// That cgroup and those above it below the enforced root, deepest first; empty where the kernel
    /// does not tell.
    pub owners: Vec<u64>,
    /// The cgroup among them whose share of the proxy the flow takes where none has a policy of its
    /// own: one that the workload cannot make more of.
    pub sharer: u64,
    /// The process that connected.
    pub pid: u32,
    /// Its name, as the kernel has it (at most 15 bytes).
    pub comm: String,
    /// The network namespace (its cookie) that upstream connections are made in.
    pub netns: u64,
}

impl Origin {
    /// The policy that the owner has now: each judgement asks for it, since a workload may get
    /// another policy while its connections run, and an id may pass to another view.
    pub fn policy_in(&self, routes: &RouteTable) -> u32 {
        if self.owners.is_empty() {
            routes
                .owners
                .get(&self.cgroup)
                .copied()
                .unwrap_or(self.policy)
        } else {
            routes.policy_of(&self.owners)
        }
    }

    /// The cgroup whose share of the proxy the flow takes: the deepest of its owners that has a
    /// policy of its own, so the workload's, however many cgroups it makes below.
    fn share_in(&self, routes: &RouteTable) -> u64 {
        let own = [self.cgroup];
        let owners = if self.owners.is_empty() {
            &own[..]
        } else {
            &self.owners
        };
        let named = owners.iter().find(|id| routes.owners.contains_key(id));
        named.copied().unwrap_or(self.sharer)
    }
}

/// Finds the original destination of an accepted connection.
pub trait OriginLookup: Send + Sync {
    /// The origin of the flow; `None` where the kernel did not redirect it here. Such a flow is closed.
    fn origin(&self, accepted: BorrowedFd<'_>) -> Option<Origin>;
}

/// Makes upstream connections. The proxy bounds the time from outside by dropping the future.
pub trait Dialer: Send + Sync {
    /// Connects to `to` from within the network namespace `netns`.
    fn connect(&self, netns: u64, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

/// Bounds of the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at one time, over all listeners; one more is closed at once.
    pub connections: usize,
    /// The same of one workload, so that none can take them all.
    pub connections_each: usize,
    /// Open sockets at one time, of clients and upstream connections together.
    pub descriptors: usize,
    /// The same of one workload.
    pub descriptors_each: usize,
    /// Time from accept until the name is known on ports that are not plain HTTP.
    pub name: Duration,
    /// Time for one upstream connect (Istio's `connectTimeout` default).
    pub connect: Duration,
    /// Time that an HTTP connection may wait for a whole request head, and that any connection may
    /// stand without a byte either way (Envoy's `idle_timeout` default, for HTTP and TCP).
    pub idle: Duration,
    /// Bytes of one request head (Envoy's `max_request_headers_kb` default).
    pub head: usize,
    /// Bytes of memory over all connections, for requests that are under way, unfinished heads and
    /// buffers of relayed connections; one workload gets a quarter.
    pub memory: usize,
    /// Time that a request waits for memory, where its workload's is taken, before it is denied.
    pub room: Duration,
    /// Time for the first bytes of a flow whose destination is listed for TCP as well: then it is
    /// relayed unread, since the server may be the one to speak first.
    pub first_bytes: Duration,
    /// Idle upstream connections that one client connection keeps.
    pub idle_upstreams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_each: 4096,
            descriptors: 3 * 16_384,
            descriptors_each: 3 * 4096,
            name: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            idle: Duration::from_hours(1),
            head: 60 * 1024,
            memory: 160 * 1024 * 1024,
            room: Duration::from_secs(5),
            first_bytes: Duration::from_millis(300),
            idle_upstreams: 4,
        }
    }
}

impl Limits {
    /// No more sockets than `descriptors`, of which one workload gets a quarter.
    #[must_use]
    pub fn within(descriptors: usize) -> Self {
        let all = Self::default();
        let descriptors = descriptors.clamp(4, all.descriptors);
        Self {
            descriptors,
            descriptors_each: (descriptors / 4).max(2),
            ..all
        }
    }
}

/// How often it is looked whether many connections have ended.
const GIVE_BACK: Duration = Duration::from_secs(1);

#[cfg(target_env = "gnu")]
fn trim() {
    // SAFETY: it takes the allocator's own locks, and any thread may call it at any time
    // (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}

/// Other allocators give large blocks back by themselves.
#[cfg(not(target_env = "gnu"))]
fn trim() {}

/// What all connections share.
pub struct Shared {
    routes: Arc<ArcSwap<RouteTable>>,
    origins: Arc<dyn OriginLookup>,
    dialer: Arc<dyn Dialer>,
    observer: Arc<dyn Observer>,
    limits: Limits,
    connections: Arc<Places>,
    /// Blocks of [`ahead::BLOCK`] bytes.
    memory: Arc<Places>,
    descriptors: Arc<Places>,
    changes: Option<watch::Receiver<u64>>,
    /// What canaries are answered.
    proof: Arc<str>,
}

impl Shared {
    /// Puts the parts together. `routes` is read anew for every request and every TLS connection.
    pub fn new(
        routes: Arc<ArcSwap<RouteTable>>,
        origins: Arc<dyn OriginLookup>,
        dialer: Arc<dyn Dialer>,
        observer: Arc<dyn Observer>,
        limits: Limits,
    ) -> Self {
        let connections = Arc::new(Places::new(limits.connections, limits.connections_each));
        let blocks = limits.memory / ahead::BLOCK;
        let memory = Arc::new(Places::new(blocks, blocks / 4));
        let descriptors = Arc::new(Places::new(limits.descriptors, limits.descriptors_each));
        Self {
            routes,
            origins,
            dialer,
            observer,
            limits,
            connections,
            memory,
            descriptors,
            changes: None,
            proof: Arc::default(),
        }
    }

    /// Answers connections of the agent's own canaries with these words, by which it knows that a
    /// redirected flow reached it and no other proxy.
    #[must_use]
    pub fn proven_by(mut self, words: Arc<str>) -> Self {
        self.proof = words;
        self
    }

    /// Gives the system the memory back that connections had, whenever many of them have ended: the
    /// C library keeps it otherwise. Runs until it is dropped.
    pub async fn give_back(self: Arc<Self>) {
        loop {
            tokio::time::sleep(GIVE_BACK).await;
            if self.connections.fell() && tokio::task::spawn_blocking(trim).await.is_err() {
                return;
            }
        }
    }

    /// Ends connections whose host is no longer listed, looked at whenever `changes` has a new
    /// value. Without it a connection that was let through runs to its own end.
    #[must_use]
    pub fn ending_removed(mut self, changes: watch::Receiver<u64>) -> Self {
        self.changes = Some(changes);
        self
    }
}
