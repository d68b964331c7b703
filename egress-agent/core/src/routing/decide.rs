//! The decisions: Host or SNI in, a destination or a refusal out.

use super::{Cluster, HttpRoute};
use std::sync::Arc;

/// What a route match looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The Host header or `:authority`, as sent, port included.
    pub authority: &'a str,
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
}

/// What happens to one HTTP request.
#[derive(Clone, Debug)]
pub enum HttpDecision {
    /// Forwarded.
    Forward(Arc<Cluster>, HttpRoute),
    /// The Host is not listed on this port: 502 with an empty body (Istio's `block_all`).
    UnlistedHost,
    /// Listed, but no route matches: 404 with an empty body, flag NR.
    NoRoute,
}

/// What happens to one TLS connection.
#[derive(Clone, Debug)]
pub enum TlsDecision {
    /// Forwarded untouched.
    Forward(Arc<Cluster>),
    /// The name is not listed on this port: closed.
    UnlistedName,
}
