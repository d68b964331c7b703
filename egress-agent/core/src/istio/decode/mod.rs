//! Files of Kubernetes objects to Istio's resources, decoded as istiod does.
//!
//! Reads text and says what is wrong with its form. What is wrong with its meaning is for
//! [`super::validate()`] to say.

pub(crate) mod macros;
mod mended;
pub mod node;
mod object;
mod parse;
pub mod reader;
mod scalar;
mod stream;
mod suggest;
mod template;
pub mod values;

pub(crate) use mended::mended;
pub(crate) use suggest::nearest;

pub use object::{Kind, Meta, Object, Spec};
pub use stream::{Decoded, MAX_FILE, Skipped, Strictness, decode, decode_as, decode_part};
