//! Istio's resources: the model, decoding and validation. Does not know what they mean for a flow.

pub mod decode;
pub mod destination_rule;
pub mod duration;
pub(crate) mod edits;
pub mod fields;
pub mod hosts;
pub mod message;
pub mod place;
pub mod protocol;
pub mod report;
pub mod rule_name;
pub mod secret;
pub mod service_entry;
pub mod sidecar;
pub mod stand_in;
pub mod validate;
pub mod virtual_service;
pub mod workload_entry;

pub use decode::{
    Decoded, GROUP, Kind, Meta, Object, Skipped, Spec, Strictness, VERSIONS, decode, decode_as,
};
pub use message::{Message, Severity};
pub use place::{is_api, place};
pub use rule_name::{RuleName, RuleNameError};
pub use secret::{CredentialKind, CredentialName, Secret, Secrets};
pub use validate::{Verdict, validate};
