//! The shell of the egress gate.

pub mod proxy;
