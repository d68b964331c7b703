//! Where rules come from. A source hands over decoded rule sets; it judges no flow.

pub mod files;
pub(crate) mod judge;
pub mod rules;
pub mod store;
mod watch;

pub use files::{Feed, Reading, SourceFile, follow};
pub use rules::{RuleSet, follow_rules};
