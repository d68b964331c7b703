//! The harness of the end-to-end tests: real cgroups, real network namespaces, real sockets and
//! the real agent binary.
//!
//! Owns everything that such a test needs around the agent: guards that create things and remove them again, even when
//! a test panics; the hosts of the outside; the clients. The tests judge the results.

pub mod agent;
pub mod alerts;
pub mod api;
pub mod background;
pub mod bench;
pub mod bpffs;
pub mod cgroup;
pub mod child;
pub mod client;
pub mod crowd;
pub mod escape;
pub mod flows;
pub mod folder;
pub mod hosts;
pub mod idle;
pub mod lab;
pub mod load;
pub mod memory;
pub mod netns;
pub mod outage;
pub mod pinned;
pub mod place;
pub mod pods;
pub mod probe;
pub mod prober;
pub mod queries;
pub mod readiness;
pub mod rules;
pub mod scrape;
pub mod seen;
pub mod soak;
pub mod steady;
pub mod takeover;
pub mod upgrade;
pub mod wait;
pub mod walk;
pub mod watcher;

pub use agent::Agent;
pub use background::Background;
pub use client::Reply;
pub use lab::{Family, Lab, LabOptions};
pub use load::Load;
pub use probe::{Answer, Session};
pub use wait::wait_until;
