//! Files of Kubernetes objects to Istio's resources, decoded as istiod does.
//!
//! Reads text and says what is wrong with its form. What is wrong with its meaning is for
//! [`super::validate()`] to say.

pub(crate) mod macros;
pub mod node;
mod object;
mod parse;
pub mod reader;
mod scalar;
mod suggest;
pub mod values;

pub use object::{Decoded, Kind, MAX_FILE, Meta, Object, Skipped, Spec, decode};
