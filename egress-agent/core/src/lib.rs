//! The pure half of the egress gate: Istio's resources in, tables and routing decisions out.
//!
//! No sockets, files, clocks, tokio or aya here; time comes in as a parameter. Data walks one
//! way: `istio` (decoded resources) → `registry` (services and routes as one workload sees them)
//! → `policy` (tables for the kernel, leases of addresses) and `routing` (the proxy's snapshot).

pub mod access_log;
pub mod dns;
pub mod http;
pub mod istio;
pub mod policy;
pub mod registry;
pub mod routing;
mod sharing;
pub mod tls;
pub mod traffic;
