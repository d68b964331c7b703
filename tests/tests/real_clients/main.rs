//! Real clients through the real gate: curl, Python, Node, Java and Go over HTTP and TLS, gRPC, WebSocket and
//! server-sent events. `tests/clients` has their programs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod call;
mod curl;
mod grpc;
mod http;
mod setting;
mod streams;
