//! Which hosts an address is known by, and what each policy lists of them: what a log line says of a
//! denial.
//!
//! Owns the index. Its parts are persistent maps: the state machine changes its copy in place, and a
//! snapshot shares with it what did not change, so that taking one costs nothing however many rules
//! there are. No verdict is read from it.

pub(super) mod addresses;
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
