//! What an HTTP route does with a request.
//!
//! Owns the cases and reads them from the rule. Destinations are a parameter: shares of services in
//! a plan, clusters in the proxy's snapshot, the one cluster of a decision.

use crate::istio::virtual_service::{HttpRoute, HttpRouteDestination};
use std::sync::Arc;

/// The action of a route, with destinations of type `D`.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpAction<D> {
    /// `route`: the request is forwarded.
    Forward(D),
}

/// Why a route has no action: its requests are denied.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum NoAction {
    /// The route leads to no destination.
    #[default]
    Nowhere,
    /// The rule has a field that narrows or protects and is not carried out. The text names the field and the object.
    NotCarriedOut(Arc<str>),
}

impl<D> HttpAction<D> {
    /// The action of a rule. `forward` finds its destinations, and returns `None` if none of them gets a request.
    pub fn of_rule(
        route: &HttpRoute,
        forward: impl FnOnce(&[HttpRouteDestination]) -> Option<D>,
    ) -> Result<Self, NoAction> {
        let to = forward(&route.route).ok_or(NoAction::Nowhere)?;
        Ok(Self::Forward(to))
    }

    /// The destinations, if the request is forwarded.
    pub fn destinations(&self) -> Option<&D> {
        match self {
            Self::Forward(to) => Some(to),
        }
    }

    /// The same action, with the destinations that `forward` returns.
    pub fn try_map<E, N>(
        &self,
        forward: impl FnOnce(&D) -> Result<E, N>,
    ) -> Result<HttpAction<E>, N> {
        match self {
            Self::Forward(to) => forward(to).map(HttpAction::Forward),
        }
    }
}
