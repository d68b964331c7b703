//! From services and DNS answers to the kernel's tables and the proxy's snapshot.

pub mod diff;
pub mod leases;
mod ranges;
pub mod tables;
