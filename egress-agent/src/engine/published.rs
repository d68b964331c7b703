//! The snapshots of the state that other tasks read.

use arc_swap::ArcSwap;
use egress_core::dns::listing::Directory;
use egress_core::dns::settings::QuerySettings;
use egress_core::policy::leases::{InForce, LeaseSettings};
use egress_core::policy::naming::Names;
use egress_core::policy::state::State;
use egress_core::routing::RouteTable;
use ipnet::IpNet;
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
    /// What workloads may ask name servers.
    pub directory: Arc<ArcSwap<Directory>>,
    /// The leases that are in the kernel.
    pub in_force: Arc<ArcSwap<InForce>>,
    changes: watch::Sender<u64>,
}

impl Published {
    /// Takes the first snapshots of a state.
    pub(super) fn of(state: &mut State, queries: QuerySettings) -> Self {
        let directory = Directory {
            routes: state.routes(),
            names: state.names(),
            settings: Arc::new(queries),
            version: 0,
        };
        Self {
            directory: Arc::new(ArcSwap::from_pointee(directory)),
            routes: Arc::new(ArcSwap::new(state.routes())),
            names: Arc::new(ArcSwap::from_pointee(state.names())),
            answers: Arc::new(ArcSwap::from_pointee(state.lease_settings().clone())),
            in_force: Arc::new(ArcSwap::from_pointee(state.in_force())),
            changes: watch::channel(0).0,
        }
    }

    /// The state's leases are in the kernel.
    pub(super) fn written(&self, state: &State) {
        self.in_force.store(Arc::new(state.in_force()));
    }

    /// From now on queries are judged by these settings.
    pub(super) fn judge_queries_by(&self, queries: QuerySettings) {
        let former = self.directory.load();
        let directory = Directory {
            settings: Arc::new(queries),
            version: former.version + 1,
            ..Directory::clone(&former)
        };
        self.directory.store(Arc::new(directory));
    }

    /// From now on every workload may reach these networks.
    pub(super) fn reaching(&self, internal: Vec<IpNet>) {
        let settings = QuerySettings::clone(&self.directory.load().settings);
        self.judge_queries_by(QuerySettings {
            internal,
            ..settings
        });
    }

    /// A number that is raised each time the routes are replaced.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Publishes the present state. If the routes changed, running connections are judged again.
    pub(super) fn publish(&self, state: &mut State) {
        let former = self.directory.load();
        let mut directory = Directory {
            routes: state.routes(),
            names: state.names(),
            ..Directory::clone(&former)
        };
        directory.version += u64::from(!directory.judges_as(&former));
        self.names.store(Arc::new(directory.names.clone()));
        self.directory.store(Arc::new(directory));
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
