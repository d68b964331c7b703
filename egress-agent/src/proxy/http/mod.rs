//! HTTP/1.1: client connections, and each request on them from its head to the end of its response.
//!
//! Upstream connections are made in `upstream`; which hosts and routes there are is `egress_core`'s.

mod connection;
mod control;
mod exchange;
mod judge;
mod local;
mod reply_body;
mod request_body;
mod room;
mod session;
mod wire;

pub(super) use connection::{serve, serve_any};
