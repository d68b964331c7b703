//! How an attempt ended without a response, and the client's reply for it.

use egress_core::http::local_reply::LocalReply;
use egress_core::http::response_flags::ResponseFlags;
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::routing::Cluster;
use std::sync::Arc;

/// See the module.
pub(super) enum Lost {
    /// The upstream was lost. `started`: bytes of the request were sent.
    Reset { reset: UpstreamReset, started: bool },
    /// Its time limit passed.
    Timeout,
    /// While it waited, the rule that allowed the request was removed.
    Removed,
    /// While it waited, its destination changed to this. Nothing of the request was sent.
    Moved(Arc<Cluster>),
}

impl Lost {
    /// For what cannot happen.
    pub(super) const LOCAL: Self = Self::Reset {
        reset: UpstreamReset::Termination,
        started: true,
    };

    /// The connection failed after it was made.
    pub(super) fn after(reset: UpstreamReset) -> Self {
        let started = true;
        Self::Reset { reset, started }
    }

    /// Nothing of the request was sent.
    pub(super) fn unstarted(reset: UpstreamReset) -> Self {
        let started = false;
        Self::Reset { reset, started }
    }

    /// The reply to the client, with these flags besides its own.
    pub(super) fn reply(&self, retried: bool, flags: ResponseFlags) -> LocalReply {
        let reply = match self {
            Self::Reset { reset, .. } => LocalReply::upstream_reset(reset, retried),
            Self::Timeout => LocalReply::per_try_timeout(),
            Self::Removed => LocalReply::unlisted_host(),
            // The caller goes on with its destination of now.
            Self::Moved(_) => LocalReply::no_healthy_upstream(),
        };
        reply.flagged(flags)
    }
}
