//! The state of one cluster for the flows of one workload: whose turn it is, the requests of each endpoint, the
//! endpoints that are left alone, and what is in use.
//!
//! It dials nothing.

use super::ejected::{Mark, Marks};
use super::suspects::Suspects;
use super::usage::Usage;
use crate::lock::lock;
use egress_core::routing::{Cluster, Turns, candidates};
use egress_core::traffic::balance::score;
use egress_core::traffic::{Balance, Outcome, Outliers};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::time::Instant;
use uuid::Uuid;

/// See the module.
pub(in crate::proxy) struct Workload {
    turns: Turns,
    /// Requests and connections of each endpoint.
    loads: Mutex<BTreeMap<SocketAddr, u32>>,
    outliers: Mutex<Outliers>,
    ejected: Marks,
    pub(super) suspects: Suspects,
    /// From which the outliers count their time.
    since: Instant,
    pub(in crate::proxy) usage: Arc<Usage>,
}

impl Default for Workload {
    fn default() -> Self {
        Self {
            turns: Turns::default(),
            loads: Mutex::default(),
            outliers: Mutex::default(),
            ejected: Marks::default(),
            suspects: Suspects::default(),
            since: Instant::now(),
            usage: Arc::default(),
        }
    }
}

impl std::fmt::Debug for Workload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Workload")
    }
}

/// A request or connection that counts for its endpoint until it is dropped.
pub(in crate::proxy) struct Load {
    of: Arc<Workload>,
    endpoint: SocketAddr,
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut loads = lock(&self.of.loads);
        if let Some(load) = loads.get_mut(&self.endpoint) {
            *load -= 1;
            if *load == 0 {
                loads.remove(&self.endpoint);
            }
        }
    }
}

impl Workload {
    /// The number of the next draw from the endpoints.
    pub(in crate::proxy) fn draw(&self) -> usize {
        self.turns.draw()
    }

    /// Whether flows to this cluster need the state: there is a choice, or something to count.
    pub(in crate::proxy) fn is_needed(cluster: &Cluster) -> bool {
        let policy = &cluster.policy;
        let choice = cluster.endpoints.len() > 1 || !cluster.further.is_empty();
        choice || policy.pool.counts() || policy.outliers.is_some()
    }

    /// The endpoints that a flow dials, in order. `hash`: of the flow, if the cluster is balanced by one. Empty if all
    /// are left alone.
    pub(in crate::proxy) fn order(
        &self,
        cluster: &Cluster,
        dialled: SocketAddr,
        hash: Option<u64>,
    ) -> Vec<SocketAddr> {
        let mut order = self.balanced(cluster, dialled, hash);
        self.suspects.put_last(&mut order, Instant::now());
        order
    }

    fn balanced(
        &self,
        cluster: &Cluster,
        dialled: SocketAddr,
        hash: Option<u64>,
    ) -> Vec<SocketAddr> {
        let left = self.left(cluster);
        let cluster = left.as_ref().unwrap_or(cluster);
        let random = || Uuid::new_v4().as_u64_pair().0;
        let turn = || match (&cluster.policy.balance, hash) {
            (Some(Balance::Random), _) | (Some(Balance::Hash(_)), None) => random() as usize,
            _ => self.draw(),
        };
        let mut order = candidates(cluster, dialled, turn);
        if order.len() < 2 || !cluster.balanced {
            return order;
        }
        match (&cluster.policy.balance, hash) {
            (Some(Balance::Hash(_)), Some(hash)) => {
                order.sort_by_cached_key(|endpoint| std::cmp::Reverse(score(hash, *endpoint)));
            }
            (None | Some(Balance::LeastRequest), _) if cluster.weights.is_empty() => {
                let other = 1 + random() as usize % (order.len() - 1);
                let loads = lock(&self.loads);
                let load = |at: usize| loads.get(&order[at]).copied().unwrap_or(0);
                if load(other) < load(0) {
                    order.swap(0, other);
                }
            }
            _ => {}
        }
        order
    }

    /// Prepares the order of a flow's endpoints for its next attempt: without those that are left alone by now, and
    /// with those last that did not connect.
    pub(in crate::proxy) fn again(&self, cluster: &Cluster, order: &mut Vec<SocketAddr>) {
        self.leave_out(cluster, order);
        self.suspects.put_last(order, Instant::now());
    }

    /// Removes endpoints that are left alone at the moment.
    fn leave_out(&self, cluster: &Cluster, from: &mut Vec<SocketAddr>) {
        if let Some(policy) = &cluster.policy.outliers {
            lock(&self.outliers).filter(from, self.since.elapsed(), policy);
        }
    }

    /// The cluster with the endpoints that are not left alone, if there are others.
    fn left(&self, cluster: &Cluster) -> Option<Cluster> {
        cluster.policy.outliers.as_ref()?;
        let mut left = cluster.endpoints.clone();
        self.leave_out(cluster, &mut left);
        if left.len() == cluster.endpoints.len() {
            return None;
        }
        let both = cluster.endpoints.iter().zip(&cluster.weights);
        let weights = both.filter(|(endpoint, _)| left.contains(endpoint));
        Some(Cluster {
            weights: weights.map(|(_, weight)| *weight).collect(),
            endpoints: left,
            ..cluster.clone()
        })
    }

    /// Counts a request or connection for its endpoint.
    pub(in crate::proxy) fn load(self: &Arc<Self>, endpoint: SocketAddr) -> Load {
        *lock(&self.loads).entry(endpoint).or_default() += 1;
        let of = Arc::clone(self);
        Load { of, endpoint }
    }

    /// Notes how an attempt at an endpoint ended.
    pub(in crate::proxy) fn note(&self, cluster: &Cluster, endpoint: SocketAddr, outcome: Outcome) {
        if matches!(outcome, Outcome::Status(_) | Outcome::Connected) {
            self.suspects.clear(endpoint);
        }
        // Of resolution NONE the clients choose the addresses: there is no list to keep.
        if let Some(policy) = &cluster.policy.outliers
            && cluster.original_dst.is_none()
        {
            let (all, now) = (&cluster.endpoints, self.since.elapsed());
            if lock(&self.outliers).note(endpoint, outcome, all, now, policy) {
                self.ejected.eject(endpoint);
            }
        }
    }

    /// The mark of a new connection to an endpoint, if it can be ejected.
    pub(in crate::proxy) fn mark(&self, cluster: &Cluster, endpoint: SocketAddr) -> Option<Mark> {
        let can = cluster.policy.outliers.is_some() && cluster.original_dst.is_none();
        can.then(|| self.ejected.of(endpoint))
    }
}
