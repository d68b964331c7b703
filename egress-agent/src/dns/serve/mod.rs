//! The DNS server of the workloads: answers the queries that the gate redirects to the agent.
//!
//! ```text
//! datagram or stream ─► owner ─► judge ─► cache | upstream ─► filter ─► lease in the kernel ─► reply
//! ```
//!
//! Owns this order and its bounds. The core judges and filters (`egress_core::dns`); the engine puts leases in force; the
//! kernel shows the client the server that it asked.

mod answering;
mod asker;
mod below;
mod cache;
mod datagrams;
mod observe;
mod queue;
mod replies;
mod resolving;
mod server;
mod shares;
mod streams;
mod under_way;
mod upstream;
mod waiting;

pub use asker::{Asker, Owners};
pub use datagrams::datagrams;
pub use observe::{DeniedQuery, Queries, QueryResult};
pub use server::{DnsUse, Learned, Parts, Server};
pub use streams::stream;
