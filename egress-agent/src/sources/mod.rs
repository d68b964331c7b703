//! Where rules come from. A source hands over whole, decoded rule sets; it judges no flow.

pub mod files;
pub mod rules;
mod watch;

pub use files::{Feed, SourceFile, follow};
pub use rules::{RuleSet, follow_rules};
