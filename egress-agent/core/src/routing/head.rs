//! The head of a request, as far as routes look at it.
//!
//! Knows no route.

use http::HeaderMap;

/// What a route match looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The Host header or `:authority`, as sent, port included.
    pub authority: &'a str,
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
}
