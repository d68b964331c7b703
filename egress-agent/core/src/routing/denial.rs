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
    /// The route, if it is one whose other settings hold for the reply.
    pub act: Option<Act>,
}

impl HttpDecision {
    /// What the route of a request with this Host does, with its policy, or the request's denial.
    pub fn or_denial(self, authority: &str) -> Result<Act, Box<HttpDenial>> {
        let mut route = None;
        let (reply, reason) = match self {
            Self::Act(act) => return Ok(act),
            Self::UnlistedHost => {
                let reason = parse_authority(authority)
                    .map_or_else(DenialReason::BadHost, |_| DenialReason::UnlistedHost);
                (LocalReply::unlisted_host(), reason)
            }
            Self::NoRoute => (LocalReply::no_route(), DenialReason::NoRoute),
            Self::NoCluster(act) => {
                let to = act.action.destinations();
                let host = to.map_or_else(String::new, |to| to.cluster.id.host.to_string());
                route = Some(act);
                (LocalReply::no_cluster(), DenialReason::NoCluster(host))
            }
            Self::NotCarriedOut(why) => {
                (LocalReply::no_cluster(), DenialReason::NotCarriedOut(why))
            }
        };
        Err(Box::new(HttpDenial {
            reply,
            reason,
            act: route,
        }))
    }
}
