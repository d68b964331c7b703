//! The shell of the egress gate.
pub mod failure;
pub mod kernel;
