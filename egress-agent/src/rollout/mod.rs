//! Which nodes have which rules in force: each agent publishes it for its node, and `wait` reads it for the cluster.
//!
//! `report` owns what is published, `publish` writes it, `tally` decides which nodes have a rule, and `waiting` follows the
//! API for it.

mod publish;
mod report;
mod tally;
mod waiting;

pub use publish::{Place, publish_rules};
pub use tally::Goal;
pub use waiting::{Agents, wait_for_nodes};
