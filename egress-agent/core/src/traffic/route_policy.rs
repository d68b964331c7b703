//! The settings of an HTTP route besides its action: Istio's `VirtualService.http[]` without `match` and destinations.
//!
//! Owns which fields are read. The proxy carries them out.

use crate::istio::duration::TimeSpan;
use crate::istio::virtual_service::HttpRoute;
use std::time::Duration;

/// The policy of one route. The default has no settings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutePolicy {
    /// `timeout`: from the end of the request to the end of the response.
    pub timeout: Option<Duration>,
}

impl From<&HttpRoute> for RoutePolicy {
    fn from(route: &HttpRoute) -> Self {
        Self {
            timeout: route.timeout.map(TimeSpan::duration),
        }
    }
}
