//! HTTP/1.1: client connections, and each request on them from its head to the end of its response.
//!
//! `upstream` makes upstream connections; `egress_core` knows hosts and routes.

mod attempts;
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
pub(super) use local::closing_reply;
