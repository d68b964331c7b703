//! What an HTTP route does with a request.
//!
//! Owns the cases and reads them from the rule. Destinations are a parameter: shares of services in
//! a plan, clusters in the proxy's snapshot, the one cluster of a decision.

use super::redirect::Redirect;
use crate::istio::virtual_service::{HttpDirectResponse, HttpRoute, HttpRouteDestination};
use std::sync::Arc;

/// The action of a route, with destinations of type `D`.
#[derive(Clone, Debug, PartialEq)]
pub enum HttpAction<D> {
    /// `route`: the request is forwarded.
    Forward(D),
    /// `redirect`: the client is told another URL.
    Redirect(Arc<Redirect>),
    /// `directResponse`: a fixed reply.
    Direct(Arc<DirectResponse>),
}

/// `VirtualService.http[].directResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// The status.
    pub status: u16,
    /// The body; may be empty.
    pub body: Vec<u8>,
}

impl From<&HttpDirectResponse> for DirectResponse {
    fn from(response: &HttpDirectResponse) -> Self {
        let body = response.body.as_ref().map(|body| match &body.bytes {
            Some(bytes) => bytes.0.clone(),
            None => body.string.clone().unwrap_or_default().into_bytes(),
        });
        Self {
            // Validation lets only valid ones through.
            status: u16::try_from(response.status).unwrap_or(503),
            body: body.unwrap_or_default(),
        }
    }
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
    /// The action of a rule, of which a redirect comes before a fixed reply, and that before destinations (istio
    /// `translateRoute`). `forward` finds the destinations, and returns `None` if none of them gets a request.
    pub fn of_rule(
        route: &HttpRoute,
        forward: impl FnOnce(&[HttpRouteDestination]) -> Option<D>,
    ) -> Result<Self, NoAction> {
        if let Some(redirect) = &route.redirect {
            return Ok(Self::Redirect(Arc::new(redirect.into())));
        }
        if let Some(response) = &route.direct_response {
            return Ok(Self::Direct(Arc::new(response.into())));
        }
        let to = forward(&route.route).ok_or(NoAction::Nowhere)?;
        Ok(Self::Forward(to))
    }

    /// The destinations, if the request is forwarded.
    pub fn destinations(&self) -> Option<&D> {
        match self {
            Self::Forward(to) => Some(to),
            Self::Redirect(_) | Self::Direct(_) => None,
        }
    }

    /// The same action, with the destinations that `forward` returns.
    pub fn try_map<E, N>(
        &self,
        forward: impl FnOnce(&D) -> Result<E, N>,
    ) -> Result<HttpAction<E>, N> {
        match self {
            Self::Forward(to) => forward(to).map(HttpAction::Forward),
            Self::Redirect(redirect) => Ok(HttpAction::Redirect(Arc::clone(redirect))),
            Self::Direct(response) => Ok(HttpAction::Direct(Arc::clone(response))),
        }
    }
}
