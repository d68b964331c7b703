//! HTTP/2 from clients with prior knowledge (RFC 9113 §3.3): each stream is one request, which the same judge and the
//! same exchange as for HTTP/1.1 serve.
//!
//! The HTTP/2 library frames, compresses and keeps the windows. It gives up a connection that breaks the protocol.

mod connection;
mod pace;
mod room;
mod send;
mod stream;

pub(in crate::proxy) use connection::serve;
