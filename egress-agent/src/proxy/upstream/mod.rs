//! Upstream: connections that the proxy makes, and what it keeps of them.

pub(in crate::proxy) mod clusters;
pub(in crate::proxy) mod connect;
pub(in crate::proxy) mod pool;
mod responses;
