//! The state of the DNS server, and its bounds. `answering` takes queries.

use super::asker::Owners;
use super::below::Below;
use super::cache::{Asked, Cache};
use super::observe::Queries;
use super::queue::Budgets;
use super::shares::Shares;
use super::upstream::Upstreams;
use super::waiting::Others;
use crate::dns::name_servers::NameServers;
use crate::sockets::SocketFactory;
use arc_swap::ArcSwap;
use egress_core::dns::aliases::Aliases;
use egress_core::dns::listing::Directory;
use egress_core::policy::leases::{InForce, Lease, LeaseSettings};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, oneshot};

/// Queries that wait for an answer: all, and those of one workload.
const WAITING: usize = 8192;
const WAITING_EACH: usize = 1024;
/// Questions for which name servers are asked although their queries have got replies.
const LATE: usize = 1024;
const LATE_EACH: usize = 256;
/// Connections over TCP of all workloads, and of one.
const CONNECTIONS: usize = 1024;
const CONNECTIONS_EACH: usize = 128;

/// A lease that must be in force before its answer leaves.
pub struct Learned {
    /// The lease.
    pub lease: Lease,
    /// Notified when it is in force.
    pub done: oneshot::Sender<()>,
}

/// What the server takes from the rest of the agent.
pub struct Parts {
    /// The agent's name servers.
    pub servers: NameServers,
    /// Makes the sockets of questions.
    pub sockets: Arc<SocketFactory>,
    /// What workloads may ask.
    pub directory: Arc<ArcSwap<Directory>>,
    /// Which addresses of answers are accepted.
    pub accepted: Arc<ArcSwap<LeaseSettings>>,
    /// The leases that are in the kernel.
    pub in_force: Arc<ArcSwap<InForce>>,
    /// Finds the owners of datagrams.
    pub owners: Arc<dyn Owners>,
    /// Counts and records queries.
    pub queries: Arc<dyn Queries>,
    /// Puts leases in force.
    pub learned: mpsc::Sender<Learned>,
}

/// See the module.
pub struct Server {
    pub(super) upstreams: Upstreams,
    pub(super) directory: Arc<ArcSwap<Directory>>,
    pub(super) accepted: Arc<ArcSwap<LeaseSettings>>,
    pub(super) in_force: Arc<ArcSwap<InForce>>,
    pub(super) owners: Arc<dyn Owners>,
    pub(super) queries: Arc<dyn Queries>,
    pub(super) learned: mpsc::Sender<Learned>,
    pub(super) cache: Mutex<Cache>,
    pub(super) below: Mutex<Below>,
    /// Targets of aliases that clients got.
    pub(super) aliases: Mutex<Aliases>,
    /// Queries that wait for the same answer.
    pub(super) under_way: Mutex<HashMap<Asked, Others>>,
    pub(super) waiting: Arc<Shares>,
    pub(super) late: Arc<Shares>,
    pub(super) connections: Arc<Shares>,
    /// Replies over TCP that wait for their clients.
    pub(super) budgets: Budgets,
}

/// What the server has in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DnsUse {
    /// Queries that wait for an answer.
    pub waiting: usize,
    /// Bytes of answers that are kept.
    pub cache: usize,
    /// Targets of aliases that may be asked for.
    pub targets: usize,
}

impl Server {
    /// A server without answers.
    pub fn new(parts: Parts) -> Arc<Self> {
        Arc::new(Self {
            upstreams: Upstreams::new(&parts.servers, &parts.sockets),
            directory: parts.directory,
            accepted: parts.accepted,
            in_force: parts.in_force,
            owners: parts.owners,
            queries: parts.queries,
            learned: parts.learned,
            cache: Mutex::default(),
            below: Mutex::default(),
            aliases: Mutex::default(),
            under_way: Mutex::default(),
            waiting: Arc::new(Shares::new(WAITING, WAITING_EACH)),
            late: Arc::new(Shares::new(LATE, LATE_EACH)),
            connections: Arc::new(Shares::new(CONNECTIONS, CONNECTIONS_EACH)),
            budgets: Budgets::default(),
        })
    }

    /// What is in use at the moment.
    pub fn in_use(&self) -> DnsUse {
        let cache = self.cache.lock().map_or(0, |cache| cache.bytes());
        DnsUse {
            waiting: self.waiting.in_use(),
            cache,
            targets: self.aliases.lock().map_or(0, |aliases| aliases.count()),
        }
    }
}
