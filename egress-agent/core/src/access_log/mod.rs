//! Lines of the access log: Envoy's formats and commands, with Istio's defaults, and values that cannot break a line.
//!
//! Pure: a finished flow in, a line out. It writes nothing and reads no clock.

mod command;
mod entry;
pub mod escape;
mod format;
mod json;
mod start_time;
mod text;

pub use entry::{AskedFor, Entry};
pub use format::{AccessFormat, ISTIO_JSON, ISTIO_TEXT};
pub use text::BadFormat;
