//! HTTP: client connections, and each request on them from its head to the end of its response. Its own files serve
//! HTTP/1.1 and what both versions share; `http2` has the streams of HTTP/2.
//!
//! `upstream` makes upstream connections; `egress_core` knows hosts and routes.

mod act;
mod affinity;
mod asking;
mod attempt_head;
mod attempts;
mod connection;
mod control;
mod exchange;
mod http2;
mod interim;
mod judge;
mod kept;
mod local;
mod lost;
mod mirror;
mod outgoing;
mod reply_body;
mod request_body;
mod room;
mod session;
mod standing;
mod supply;
mod tunnel;
mod wire;

pub(super) use connection::{serve, serve_any};
pub(super) use http2::serve as serve_http2;
pub(super) use local::closing_reply;
