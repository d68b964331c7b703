//! The pure half of HTTP: the Host in one canonical form, Envoy's local replies, a sidecar's headers.
//!
//! No connection, no body and no clock here; the proxy owns those.

pub mod authority;
pub mod framing;
pub mod headers;
pub mod local_reply;
