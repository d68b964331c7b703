//! Whether a request that waited is still allowed, and what its destination is by now.
//!
//! It decides nothing about the request before it waits: `judge` does.

use super::attempt_head::clone_of;
use crate::proxy::client::Client;
use egress_core::routing::{Cluster, RequestHead};
use hyper::Request;
use hyper::http::request::Parts;
use std::sync::Arc;

/// See the module.
pub(super) struct Standing<'a> {
    client: &'a Client,
    /// The host that the client asked for.
    pub(super) authority: &'a str,
    /// The head as the client sent it, if the request may have to wait for long. Without it any route of the host counts.
    head: Option<Request<()>>,
}

impl<'a> Standing<'a> {
    /// Of a request for a cluster. Only behind a limit may it have to wait for longer than a connect.
    pub(super) fn new(
        client: &'a Client,
        authority: &'a str,
        cluster: &Cluster,
        parts: &Parts,
    ) -> Self {
        let limited = cluster.policy.pool.connections.is_some();
        Self {
            client,
            authority,
            head: limited.then(|| Request::from_parts(clone_of(parts), ())),
        }
    }

    /// Of a copy of a request: any route of the host counts.
    pub(super) fn of_copy(client: &'a Client, authority: &'a str) -> Self {
        Self {
            client,
            authority,
            head: None,
        }
    }

    /// The present state of a destination. `None` if no rule leads the request there any longer.
    pub(super) fn now(&self, cluster: &Arc<Cluster>) -> Option<Arc<Cluster>> {
        let routes = self.client.shared.routes.load();
        let policy = self.client.origin.policy_in(&routes);
        if routes.audits(policy) {
            return Some(Arc::clone(cluster));
        }
        let head = self.head.as_ref();
        let head = head.map(|head| RequestHead::of(head, self.authority));
        let dialled = self.client.origin.destination;
        routes.present(policy, dialled, self.authority, head.as_ref(), cluster)
    }
}
