//! The metrics by subject. A file has one group: its counters and histograms by name, and the current values with the
//! code that reads them.

pub mod agent;
pub mod dns;
pub mod flows;
pub mod gate;
pub mod kubernetes;
pub mod proxy;
pub mod rules;
pub mod workloads;
