//! The sources of rules: files, and objects of the Kubernetes API. A source returns decoded rule sets; it judges no flow.

mod api;
mod backlog;
pub mod files;
mod follow;
mod held;
pub(crate) mod judge;
mod loaded_secrets;
mod loader;
mod objects;
mod refusals;
mod rule_set;
pub mod rules;
pub mod store;
mod versions;
mod watch;
mod writes;

pub use api::{ApiRules, Judgement, follow_api, judge_object, plural, rule_kind};
pub use files::{Reading, SourceFile};
pub use follow::{Compiled, Feed, Sources, follow};
pub use objects::{Difference, Objects};
pub use refusals::{Refusal, Refusals};
pub use rule_set::{Instead, Line, RuleSet};
pub use rules::follow_rules;
pub use versions::{Digest, Versions};
