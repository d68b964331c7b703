//! Turns services and DNS answers into the kernel's tables and the proxy's snapshot.

pub mod claims;
pub mod diff;
mod endpoints;
pub mod explain;
pub mod leases;
mod ledger;
mod lookup;
pub mod naming;
mod numbers;
mod ops;
pub mod room;
#[cfg(test)]
mod scale_tests;
pub mod snapshot;
pub mod state;
pub mod tables;
