//! The proxy's bounds on time, memory and descriptors.
//!
//! The code that uses a resource enforces its bound.

use egress_core::http::MAX_HEAD;
use std::time::Duration;

/// Bounds of the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at one time, over all listeners.
    pub connections: usize,
    /// The same for one workload, so that none can take them all.
    pub connections_each: usize,
    /// Open sockets at one time, of clients and upstream connections together.
    pub descriptors: usize,
    /// The same for one workload.
    pub descriptors_each: usize,
    /// Pipes at one time, of two descriptors each, which are not among `descriptors`. One workload gets a quarter.
    /// Without a pipe a relayed connection copies its bytes.
    pub pipes: usize,
    /// Clients beyond these limits that get a reply at one time; one workload gets a quarter.
    pub telling: usize,
    /// Time from accept until the name is known on ports that are not plain HTTP.
    pub name: Duration,
    /// Time for one upstream connect (Istio's `connectTimeout` default).
    pub connect: Duration,
    /// Time that an HTTP connection may wait for a whole request head, and that any connection may be silent
    /// (Envoy's `idle_timeout` default, for HTTP and TCP).
    pub idle: Duration,
    /// Bytes of one request head.
    pub head: usize,
    /// Bytes of memory over all connections, for requests that are under way, unfinished heads and
    /// buffers of relayed connections; one workload gets a quarter.
    pub memory: usize,
    /// Time that a request waits for memory, if its workload's share is used up, before it is
    /// denied.
    pub room: Duration,
    /// Time for the first bytes of a flow whose destination is also listed for TCP. After that it is relayed
    /// unread, because the server may speak first.
    pub first_bytes: Duration,
    /// Idle upstream connections that one client connection keeps, of each version of HTTP.
    pub idle_upstreams: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 32_768,
            connections_each: 8192,
            descriptors: 3 * 32_768,
            descriptors_each: 3 * 8192,
            // 16 pages each: all that the kernel gives to a user without capabilities (`pipe-user-pages-soft`).
            pipes: 1024,
            telling: 64,
            name: Duration::from_secs(10),
            connect: Duration::from_secs(10),
            idle: Duration::from_hours(1),
            head: MAX_HEAD,
            memory: 160 * 1024 * 1024,
            room: Duration::from_secs(5),
            first_bytes: Duration::from_millis(300),
            idle_upstreams: 4,
        }
    }
}

impl Limits {
    /// Limits for at most `descriptors` open sockets and ends of pipes, of which one workload gets a quarter.
    #[must_use]
    pub fn within(descriptors: usize) -> Self {
        let all = Self::default();
        let telling = (descriptors / 32).clamp(1, all.telling);
        let pipes = (descriptors / 64).min(all.pipes);
        let descriptors = descriptors
            .saturating_sub(telling + 2 * pipes)
            .clamp(4, all.descriptors);
        Self {
            descriptors,
            descriptors_each: (descriptors / 4).max(2),
            pipes,
            telling,
            ..all
        }
    }
}
