//! What an upstream connection counts for while it is open, and how long it may serve.
//!
//! It closes nothing.

use super::ejected::Mark;
use super::usage::{Permit, Usage};
use super::workload::Load;
use egress_core::traffic::ConnectionPool;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// See the module.
pub(in crate::proxy) struct Held {
    /// Of the connection, if the cluster counts.
    connection: Option<Permit>,
    /// Of the running request.
    request: Option<Permit>,
    load: Option<Load>,
    /// Requests so far.
    served: u32,
    /// The origin closes the connection after this response.
    over: bool,
    made: Instant,
    /// Whether its endpoint was ejected, if endpoints of the cluster can be.
    ejected: Option<Mark>,
    /// The proxy's address, if it was made while the access log was on.
    pub(in crate::proxy) local: Option<SocketAddr>,
}

impl Default for Held {
    fn default() -> Self {
        Self {
            connection: None,
            request: None,
            load: None,
            served: 0,
            over: false,
            made: Instant::now(),
            ejected: None,
            local: None,
        }
    }
}

impl Held {
    /// Of a new connection.
    pub(in crate::proxy) fn new(
        connection: Option<Permit>,
        ejected: Option<Mark>,
        local: Option<SocketAddr>,
    ) -> Self {
        Self {
            connection,
            ejected,
            local,
            ..Self::default()
        }
    }

    /// A request begins.
    pub(in crate::proxy) fn request(&mut self, permit: Option<Permit>, load: Option<Load>) {
        (self.request, self.load) = (permit, load);
        self.served = self.served.saturating_add(1);
    }

    /// The request is over.
    pub(super) fn request_over(&mut self) {
        (self.request, self.load) = (None, None);
    }

    /// The connection gets no further request.
    pub(super) fn finish(&mut self) {
        self.over = true;
    }

    /// Whether the connection may get a further request.
    pub(super) fn may_serve(&self, pool: &ConnectionPool) -> bool {
        let requests = pool.requests_per_connection;
        !self.over
            && !self.is_ejected()
            && requests.is_none_or(|most| self.served < most)
            && self.left(pool).is_none_or(|left| !left.is_zero())
    }

    /// Whether outlier detection has ejected its endpoint since it was made.
    pub(super) fn is_ejected(&self) -> bool {
        self.ejected.as_ref().is_some_and(Mark::is_set)
    }

    fn left(&self, pool: &ConnectionPool) -> Option<Duration> {
        let life = pool.max_connection_duration;
        life.map(|life| life.saturating_sub(self.made.elapsed()))
    }

    /// How long the connection may be idle from now on, if there is a limit.
    pub(super) fn idle_limit(&self, pool: &ConnectionPool) -> Option<Duration> {
        let limits = [pool.http_idle_timeout, self.left(pool)];
        limits.into_iter().flatten().min()
    }

    /// Where the connection is counted.
    pub(super) fn usage(&self) -> Option<Arc<Usage>> {
        self.connection.as_ref().map(Permit::usage)
    }
}
