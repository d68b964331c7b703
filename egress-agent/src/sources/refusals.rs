//! The objects of the API of which another version, or none, is in force, and why. `loader` decides it.

use egress_core::istio::RuleName;
use std::collections::BTreeMap;
use std::sync::Arc;

/// By name.
pub type Refusals = BTreeMap<RuleName, Refusal>;

/// Why the API's version of an object is not in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// `metadata.generation` of that version.
    pub generation: Option<i64>,
    /// Why it is invalid, as `check` says it. Empty if it is valid, but a rule file of this node has the object too.
    pub errors: Vec<Arc<str>>,
    /// The reasons, and what is in force instead, as `status` shows them.
    pub lines: Vec<Arc<str>>,
}

impl Refusal {
    /// The reasons, and what is in force instead, in one line.
    pub fn text(&self) -> String {
        let lines: Vec<&str> = self.lines.iter().map(AsRef::as_ref).collect();
        lines.join("; ")
    }
}
