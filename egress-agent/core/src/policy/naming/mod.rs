//! The hosts of an address and what each policy lists of them, for the log line of a denial.
//!
//! Owns the index. Its parts are persistent maps: the state machine changes its copy in place, and
//! a snapshot shares the unchanged parts with it, so the cost of a snapshot does not grow with the
//! rules. No verdict depends on it.

pub(super) mod addresses;
mod asked;
mod hints;
mod index;
mod listed;
mod pairs;
mod work;

pub(super) use hints::{lists_unspelt, ports, unspelt};
pub use index::Names;
pub(super) use index::{Hosts, Needs};

#[cfg(test)]
mod tests;
