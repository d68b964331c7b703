//! The head of a request, as far as routes look at it.
//!
//! Knows no route.

use http::{HeaderMap, Request};

/// What a route match looks at.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    /// The Host header or `:authority`, as sent, port included.
    pub authority: &'a str,
    /// Method.
    pub method: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// Headers, as `receive_request` of `http/headers.rs` leaves them.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    /// That of a request which names one host.
    pub fn of<B>(request: &'a Request<B>, authority: &'a str) -> Self {
        let target = request.uri().path_and_query();
        Self {
            authority,
            method: request.method().as_str(),
            path: target.map_or("/", |target| target.as_str()),
            headers: request.headers(),
        }
    }
}
