//! Decodes files of Kubernetes objects into Istio's resources, as istiod does.
//!
//! Reports errors of form. [`super::validate()`] reports errors of meaning.

mod documents;
mod entries;
pub(crate) mod macros;
mod mended;
pub mod node;
mod object;
mod parse;
pub mod reader;
mod scalar;
mod size;
mod stream;
mod suggest;
mod template;
pub mod values;

pub(crate) use mended::mended;
pub(crate) use suggest::nearest;

pub use documents::documents_within;
pub use object::{GROUP, Kind, Meta, Object, Spec, VERSIONS};
pub use stream::{At, Decoded, MAX_FILE, Skipped, Strictness, decode, decode_as, decode_part};
