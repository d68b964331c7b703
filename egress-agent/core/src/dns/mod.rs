//! DNS as far as it is decided and not sent: whether a datagram answers a question of the agent, what a workload may
//! ask, and what of an answer reaches it.
//!
//! A query of a workload goes through `query` (the message), `judge` (the decision), `answer` (the upstream's answer
//! without what the workload may not have) and `content` (the reply).

pub mod aliases;
pub mod answer;
mod arpa;
#[cfg(test)]
#[path = "bench_tests.rs"]
mod bench;
pub mod chain;
mod cluster;
pub mod content;
pub mod decision;
pub mod judge;
pub mod listing;
pub mod name_server;
mod own;
pub mod query;
pub mod question;
#[cfg(test)]
mod records;
mod service_binding;
pub mod settings;
pub mod stale;
mod text;
pub mod tunnel;
