//! The snapshots of the state that other tasks read.

use arc_swap::ArcSwap;
use egress_core::policy::leases::LeaseSettings;
use egress_core::policy::naming::Names;
use egress_core::policy::state::State;
use egress_core::routing::RouteTable;
use std::sync::Arc;
use tokio::sync::watch;

/// See the module. Clones share the snapshots.
#[derive(Clone)]
pub struct Published {
    /// The proxy's view of the rules, with the owners of cgroups.
    pub routes: Arc<ArcSwap<RouteTable>>,
    /// The hosts of each address, for the log.
    pub names: Arc<ArcSwap<Names>>,
    /// Which answers of the DNS are accepted.
    pub answers: Arc<ArcSwap<LeaseSettings>>,
    changes: watch::Sender<u64>,
}

impl Published {
    /// Takes the first snapshots of a state.
    pub(super) fn of(state: &mut State) -> Self {
        Self {
            routes: Arc::new(ArcSwap::new(state.routes())),
            names: Arc::new(ArcSwap::from_pointee(state.names())),
            answers: Arc::new(ArcSwap::from_pointee(state.lease_settings().clone())),
            changes: watch::channel(0).0,
        }
    }

    /// A number that is raised each time the routes are replaced.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Publishes the present state. If the routes changed, running connections are judged again.
    pub(super) fn publish(&self, state: &mut State) {
        self.names.store(Arc::new(state.names()));
        if !state.lease_settings().accepts_as(&self.answers.load()) {
            let settings = state.lease_settings().clone();
            self.answers.store(Arc::new(settings));
        }
        let routes = state.routes();
        if !Arc::ptr_eq(&routes, &self.routes.load()) {
            self.routes.store(routes);
            self.changes.send_modify(|n| *n += 1);
        }
    }
}
