//! The owner of a connection, and its present permissions and shares.
//!
//! It reads and writes no bytes of the connection.

use super::observe::{Denial, DenialReason};
use super::origin::Origin;
use super::places::Place;
use super::shared::Shared;
use egress_core::routing::{Cluster, RouteTable, candidates};
use egress_ebpf::ids::{CgroupId, PolicyId};
use std::net::SocketAddr;
use std::sync::Arc;

/// Whose connection it is.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) shared: Arc<Shared>,
    pub(super) origin: Arc<Origin>,
    pub(super) peer: SocketAddr,
}

impl Client {
    /// Addresses of a destination, in the order in which they are dialled for this client.
    pub(super) fn addresses_of(&self, cluster: &Cluster) -> Vec<SocketAddr> {
        candidates(cluster, self.origin.destination, || {
            let policy = self.origin.policy_in(&self.shared.routes.load());
            self.shared.clusters.draw(cluster, policy)
        })
    }

    /// The cgroup whose share of the proxy it takes at the moment.
    pub(super) fn share(&self) -> CgroupId {
        self.origin.share_in(&self.shared.routes.load())
    }

    /// Takes and gives back blocks of memory, so that `room` has so many; false where there are no
    /// more.
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

    /// Tells the observer about a denial.
    pub(super) fn deny(&self, reason: DenialReason, name: Option<&str>) {
        self.tell(reason, name, false);
    }

    /// Where what no rule lets through goes all the same, if its policy audits: the observer is
    /// told then.
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

    /// Whether the policy that the owner has now holds what `listed` asks for, or denies nothing.
    pub(super) fn may(&self, listed: impl Fn(&RouteTable, PolicyId) -> bool) -> bool {
        let routes = self.shared.routes.load();
        let policy = self.origin.policy_in(&routes);
        routes.audits(policy) || listed(&routes, policy)
    }

    /// Waits until the owner's policy no longer holds what `listed` asks for; never, where running
    /// connections are kept, nor while the policy audits.
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
