//! The proxy on real sockets over loopback, with raw clients, raw origins and a simulated lookup of original
//! destinations.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod as_dialled;
mod audit;
mod balance;
mod bodies;
mod choice;
mod drain;
mod endpoints;
mod ends;
mod expect;
mod framing;
mod http;
mod http2;
mod http2_limits;
mod http2_upstream;
mod limits;
mod memory;
mod not_carried_out;
mod owners;
mod paths;
mod raw;
mod retries;
mod retry;
mod routes;
mod shared;
mod shares;
mod streams;
mod support;
mod tls;
mod tls_names;
mod tls_origin;
mod tls_origination;
mod upstream;
mod yaml;
