//! The shell of the egress gate: everything that uses a socket, a file or a clock. `egress-core` and
//! `egress-ebpf` decide, and this crate carries their decisions out.
//!
//! The binary and the integration tests use it; its API is not stable.

pub mod access_log;
pub mod admission;
pub mod app;
pub mod applied;
pub mod cgroup2;
pub mod cli;
pub mod conditions;
pub mod config;
pub mod dns;
pub mod engine;
pub mod failure;
pub mod gate;
pub mod handover;
pub mod in_use;
pub mod keeper;
pub mod kernel;
pub mod kubernetes;
mod listening;
mod lock;
mod memory;
pub mod monitoring;
pub mod namespaces;
pub mod observe;
pub mod operate;
pub mod pod_events;
pub mod privilege;
pub mod proxy;
pub mod rollout;
pub mod secret_store;
pub mod sockets;
pub mod sources;
mod stamp;
mod state_file;
pub mod stop;
pub mod terminal;
mod timer;
pub mod verbs;
pub mod wiring;
pub mod workloads;
