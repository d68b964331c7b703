//! Upstream: connections that the proxy makes, and the idle ones that it keeps.

pub(in crate::proxy) mod carrier;
pub(in crate::proxy) mod clusters;
pub(in crate::proxy) mod connect;
pub(in crate::proxy) mod dial;
mod ejected;
pub(in crate::proxy) mod for_bytes;
pub(in crate::proxy) mod held;
pub(in crate::proxy) mod http2;
pub(in crate::proxy) mod names;
pub(in crate::proxy) mod pool;
mod responses;
pub(in crate::proxy) mod stream;
mod suspects;
pub(in crate::proxy) mod tls;
mod tunnel;
pub(in crate::proxy) mod unanswered;
pub(in crate::proxy) mod usage;
pub(in crate::proxy) mod workload;
