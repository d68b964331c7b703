//! What a request says besides what the HTTP library knows of it.
//!
//! It judges nothing.

use super::interim::Interim;
use hyper::header::HeaderValue;

/// See the module.
pub(super) struct Asking {
    /// The one host that it names.
    pub(super) authority: String,
    /// The client's `expect`.
    pub(super) expect: Option<HeaderValue>,
    /// For the origin's 1xx responses.
    pub(super) interim: Interim,
}
