//! The verbs of the command line except `run`, each with its arguments in one file. `cli` parses
//! the command line.

pub mod args;
pub mod boot_unit;
pub mod check;
pub mod close;
pub mod detach;
pub mod exec;
pub mod explain;
pub mod quiet;
pub mod status;
pub mod wait;
