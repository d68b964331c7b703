//! How a request ends without a response: whether it was sent, and how the upstream was lost.
//!
//! It decides nothing about a further attempt.

use egress_core::http::upstream_reset::UpstreamReset;
use hyper::Request;

/// A request without a response.
pub(in crate::proxy) struct Unanswered<B> {
    /// The request, if nothing of it was sent.
    pub(in crate::proxy) unsent: Option<Request<B>>,
    pub(in crate::proxy) reset: UpstreamReset,
}

impl<B> Unanswered<B> {
    pub(super) fn unsent(request: Request<B>, reset: UpstreamReset) -> Self {
        let unsent = Some(request);
        Self { unsent, reset }
    }

    pub(super) fn sent(reset: UpstreamReset) -> Self {
        let unsent = None;
        Self { unsent, reset }
    }
}
