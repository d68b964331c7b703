//! What all connections of the proxy share.
//!
//! It serves none of them.

use super::limits::Limits;
use super::observe::Observer;
use super::origin::{Origin, OriginLookup};
use super::places::{BLOCK, Places};
use super::upstream::clusters::Clusters;
use super::upstream::names::{NameResolver, Names};
use super::upstream::tls::TlsClients;
use crate::in_use::InUse;
use crate::secret_store::SecretStore;
use arc_swap::ArcSwap;
use egress_core::routing::RouteTable;
use egress_ebpf::ids::NetnsCookie;
use serde::{Deserialize, Serialize};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio::sync::watch;

/// A boxed future, for traits that are used as objects.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Makes upstream connections. The proxy bounds the time from outside by dropping the future.
pub trait Dialer: Send + Sync {
    /// Connects to `to` in the network namespace `netns`. The connection has TCP_NODELAY set.
    fn connect(&self, netns: NetnsCookie, to: SocketAddr) -> BoxFuture<'_, io::Result<TcpStream>>;
}

/// What the proxy has in use, over all network namespaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyUse {
    /// Connections of clients.
    pub connections: InUse,
    /// Open sockets, of clients and upstream connections together.
    pub descriptors: InUse,
    /// Bytes for requests that are under way, unfinished heads and relayed bytes that wait.
    pub memory: InUse,
    /// Pipes that move the bytes of relayed connections in the kernel.
    #[serde(default)]
    pub pipes: InUse,
}

/// Serves redirected connections to port 53.
pub trait DnsStreams: Send + Sync {
    /// Answers the queries of a connection until it ends.
    fn serve(&self, origin: Arc<Origin>, peer: SocketAddr, stream: TcpStream) -> BoxFuture<'_, ()>;
}

/// What all connections share.
pub struct Shared {
    pub(super) routes: Arc<ArcSwap<RouteTable>>,
    pub(super) origins: Arc<dyn OriginLookup>,
    pub(super) dialer: Arc<dyn Dialer>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) limits: Limits,
    pub(super) connections: Arc<Places>,
    /// Blocks of [`BLOCK`] bytes.
    pub(super) memory: Arc<Places>,
    /// The part of `memory` that copies of requests may take.
    pub(super) copies: Arc<Places>,
    pub(super) descriptors: Arc<Places>,
    /// Pipes of relayed connections.
    pub(super) pipes: Arc<Places>,
    /// Clients beyond a limit that get a reply.
    pub(super) telling: Arc<Places>,
    pub(super) clusters: Clusters,
    pub(super) tls: TlsClients,
    pub(super) names: Names,
    pub(super) changes: Option<watch::Receiver<u64>>,
    /// The reply to canaries.
    pub(super) proof: Arc<str>,
    /// `None` if connections to port 53 are like all others.
    pub(super) dns: Option<Arc<dyn DnsStreams>>,
}

impl Shared {
    /// Combines the parts. `routes` is read again for every request and every TLS connection.
    pub fn new(
        routes: Arc<ArcSwap<RouteTable>>,
        origins: Arc<dyn OriginLookup>,
        dialer: Arc<dyn Dialer>,
        observer: Arc<dyn Observer>,
        limits: Limits,
    ) -> Self {
        let connections = Arc::new(Places::new(limits.connections, limits.connections_each));
        let blocks = limits.memory / BLOCK;
        let memory = Arc::new(Places::new(blocks, blocks / 4));
        let copies = Arc::new(Places::new(blocks / 4, blocks / 16));
        let descriptors = Arc::new(Places::new(limits.descriptors, limits.descriptors_each));
        let pipes = Arc::new(Places::new(limits.pipes, limits.pipes / 4));
        let telling = Arc::new(Places::new(limits.telling, (limits.telling / 4).max(1)));
        Self {
            routes,
            origins,
            dialer,
            observer,
            limits,
            connections,
            memory,
            copies,
            descriptors,
            pipes,
            telling,
            clusters: Clusters::default(),
            tls: TlsClients::new(Vec::new(), Arc::default()),
            names: Names::new(None),
            changes: None,
            proof: Arc::default(),
            dns: None,
        }
    }

    /// What is in use at the moment.
    pub fn in_use(&self) -> ProxyUse {
        ProxyUse {
            connections: self.connections.in_use(1),
            descriptors: self.descriptors.in_use(1),
            memory: self.memory.in_use(BLOCK),
            pipes: self.pipes.in_use(1),
        }
    }

    /// Answers connections of the agent's own canaries with these words, so that a canary knows that its flow
    /// reached this agent and not another proxy.
    #[must_use]
    pub fn proven_by(mut self, words: Arc<str>) -> Self {
        self.proof = words;
        self
    }

    /// Passes connections to port 53 to the DNS server.
    #[must_use]
    pub fn with_dns(self, dns: Option<Arc<dyn DnsStreams>>) -> Self {
        Self { dns, ..self }
    }

    /// Resolves the names that clients ask for where the rules say so (`DYNAMIC_DNS`). Without this, such a flow is denied.
    #[must_use]
    pub fn resolving(mut self, resolver: Arc<dyn NameResolver>) -> Self {
        self.names = Names::new(Some(resolver));
        self
    }

    /// Lets rules name client certificates and private keys in these folders, and these Secrets. Without this, a rule that
    /// names one is denied.
    #[must_use]
    pub fn presenting(mut self, folders: &[PathBuf], secrets: &Arc<SecretStore>) -> Self {
        self.tls = TlsClients::new(folders.to_vec(), Arc::clone(secrets));
        self
    }

    /// Ends connections whose host is no longer listed. They are checked at each change of the
    /// value in `changes`. Without this, an allowed connection continues until it ends by itself.
    #[must_use]
    pub fn ending_removed(mut self, changes: watch::Receiver<u64>) -> Self {
        self.changes = Some(changes);
        self
    }
}
