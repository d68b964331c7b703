//! The owner of a connection, and its present permissions and shares.
//!
//! It reads and writes no bytes of the connection.

use super::observe::{CopyEnd, Denial, DenialReason};
use super::origin::Origin;
use super::places::Place;
use super::shared::Shared;
use super::upstream::workload::Workload;
use egress_core::routing::{Cluster, RouteTable, candidates};
use egress_core::traffic::balance::hash_of;
use egress_core::traffic::{Balance, HashOn};
use egress_ebpf::addr::Addr;
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::net::SocketAddr;
use std::sync::Arc;

/// The owner of the connection.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) origin: Arc<Origin>,
    pub(super) peer: SocketAddr,
}

impl Client {
    /// The state of a cluster for this client's workload. `None` if flows to the cluster do not need it.
    pub(super) fn workload(&self, cluster: &Cluster) -> Option<Arc<Workload>> {
        let is_needed = Workload::is_needed(cluster);
        is_needed.then(|| self.shared.clusters.of(cluster, self.share()))
    }

    /// The hash of this client's address, if a cluster is balanced by it.
    pub(super) fn source_hash(&self, cluster: &Cluster) -> Option<u64> {
        let by_source = cluster.policy.balance == Some(Balance::Hash(HashOn::SourceIp));
        by_source.then(|| hash_of(self.peer.ip().to_string().as_bytes()))
    }

    /// Addresses of a destination, in the order in which they are dialled for this client. `hash`: of the flow, if the
    /// cluster is balanced by one.
    pub(super) fn addresses_of(
        &self,
        cluster: &Cluster,
        workload: Option<&Workload>,
        hash: Option<u64>,
    ) -> Vec<SocketAddr> {
        let dialled = self.origin.destination;
        match workload {
            Some(workload) => workload.order(cluster, dialled, hash),
            None => candidates(cluster, dialled, || 0),
        }
    }

    /// Addresses of the name that a flow asks for, of the client's address family first, under `DYNAMIC_DNS`. Reports a
    /// denial if the name has no address.
    pub(super) async fn addresses_by_name(
        &self,
        cluster: &Cluster,
        port: u16,
        name: &str,
    ) -> Option<Vec<SocketAddr>> {
        match self.shared.names.of(name, self.share()).await {
            Ok(found) => {
                let endpoints = found.iter().map(|ip| SocketAddr::new(*ip, port)).collect();
                let resolved = Cluster {
                    endpoints,
                    balanced: false,
                    ..cluster.clone()
                };
                let mut order = candidates(&resolved, self.origin.destination, || 0);
                let dialled = Addr::from(self.origin.destination.ip()).canonical().into();
                if !found.contains(&dialled) && self.shared.names.leases(name, dialled) {
                    order.insert(0, SocketAddr::new(dialled, port));
                }
                Some(order)
            }
            Err(why) => {
                self.deny(DenialReason::Unresolved(name.to_owned(), why), Some(name));
                None
            }
        }
    }

    /// The cgroup whose share of the proxy it takes now.
    pub(super) fn share(&self) -> CgroupId {
        self.origin.share_in(&self.shared.routes.load())
    }

    /// Takes or returns blocks of memory until `room` has that many; false if there are not enough.
    pub(super) fn keep_room(&self, room: &mut Option<Place>, blocks: usize) -> bool {
        match room {
            Some(place) if blocks > 0 => place.resize(blocks),
            None if blocks > 0 => {
                *room = self.shared.memory.take_many(self.share(), blocks);
                room.is_some()
            }
            Some(_) | None => {
                *room = None;
                true
            }
        }
    }

    /// Takes blocks of memory until `room` has that many, for a use that also works without: only while the workload
    /// has more than half of its share left.
    pub(super) fn keep_spare(&self, room: &mut Option<Place>, blocks: usize) -> bool {
        let memory = &self.shared.memory;
        if let Some(place) = room {
            place.grow_spare(blocks)
        } else {
            *room = memory.spare(self.share(), blocks);
            room.is_some()
        }
    }

    /// What only the access log needs.
    pub(super) fn logged<T>(&self, find: impl FnOnce() -> Option<T>) -> Option<T> {
        self.shared.observer.access_format().and_then(|_| find())
    }

    /// Reports a denial to the observer.
    pub(super) fn deny(&self, reason: DenialReason, name: Option<&str>) {
        self.tell(reason, name, false);
    }

    /// The destination of an unlisted flow whose policy audits. Reports it to the observer.
    pub(super) fn audited(
        &self,
        reason: &DenialReason,
        name: Option<&str>,
    ) -> Option<Arc<Cluster>> {
        let origin = &self.origin;
        let routes = self.shared.routes.load();
        let cluster = routes.audited(origin.policy_in(&routes), origin.destination)?;
        self.tell(reason.clone(), name, true);
        Some(cluster)
    }

    /// Whether the owner's present policy lists what `listed` asks for, or denies nothing.
    pub(super) fn may(&self, listed: impl Fn(&RouteTable, PolicyId) -> bool) -> bool {
        let routes = self.shared.routes.load();
        let policy = self.origin.policy_in(&routes);
        routes.audits(policy) || listed(&routes, policy)
    }

    /// Waits until the owner's policy no longer lists what `listed` asks for. Never returns if
    /// running connections are kept, or while the policy audits.
    pub(super) async fn removed(&self, listed: impl Fn(&RouteTable, PolicyId) -> bool) {
        if let Some(mut changes) = self.shared.changes.clone() {
            while self.may(&listed) {
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// Reports the end of a copy of a request.
    pub(super) fn copied(&self, end: CopyEnd) {
        self.shared.observer.copied(&self.origin, end);
    }

    fn tell(&self, reason: DenialReason, name: Option<&str>, audit: bool) {
        let denial = Denial {
            peer: self.peer,
            name: name.map(str::to_owned),
            reason,
            audit,
        };
        let policy = self.origin.policy_in(&self.shared.routes.load());
        let origin = Origin {
            policy,
            ..Origin::clone(&self.origin)
        };
        self.shared.observer.denied(Some(&origin), &denial);
    }
}
