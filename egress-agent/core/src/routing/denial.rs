//! The reply to a denied request, and the reason for the denial.
//!
//! The proxy sends it, and `explain` prints it. Decides nothing.

use super::{Act, DenialReason, HttpDecision};
use crate::http::authority::parse_authority;
use crate::http::local_reply::LocalReply;

/// A denied request.
#[derive(Clone, Debug)]
pub struct HttpDenial {
    /// What the client gets.
    pub reply: LocalReply,
    /// Why.
    pub reason: DenialReason,
}

impl HttpDecision {
    /// What the route of a request with this Host does, with its policy, or the request's denial.
    pub fn or_denial(self, authority: &str) -> Result<Act, HttpDenial> {
        let (reply, reason) = match self {
            Self::Act(act) => return Ok(act),
            Self::UnlistedHost => {
                let reason = parse_authority(authority)
                    .map_or_else(DenialReason::BadHost, |_| DenialReason::UnlistedHost);
                (LocalReply::unlisted_host(), reason)
            }
            Self::NoRoute => (LocalReply::no_route(), DenialReason::NoRoute),
            Self::NoCluster(cluster) => {
                let reason = DenialReason::NoCluster(cluster.id.host.to_string());
                (LocalReply::no_cluster(), reason)
            }
            Self::NotCarriedOut(why) => {
                (LocalReply::no_cluster(), DenialReason::NotCarriedOut(why))
            }
        };
        Err(HttpDenial { reply, reason })
    }
}
