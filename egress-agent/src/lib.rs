//! x
pub mod app;
pub mod cgroup2;
pub mod check;
pub mod cli;
pub mod config;
pub mod dns;
pub mod exec;
pub mod failure;
pub mod observe;
pub mod privilege;
pub mod sockets;
pub mod sources;
