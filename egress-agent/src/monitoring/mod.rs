//! Metrics and health over HTTP, for Prometheus and for probes. Reads what other folders count and know, and counts
//! nothing itself.

mod answer;
mod catalog;
mod collect;
mod exposition;
mod kind;
mod metric;
pub mod page;
mod process;
mod server;
mod tables;
mod values;

pub use catalog::names;
pub use server::serve;
