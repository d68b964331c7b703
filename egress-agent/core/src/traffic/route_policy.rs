//! The settings of an HTTP route besides its action: Istio's `VirtualService.http[]` without `match` and destinations.
//!
//! Owns which fields are read. The proxy carries them out.

use super::cors::Cors;
use super::fault::Fault;
use super::header_changes::HeaderChanges;
use super::retry_policy::RetryPolicy;
use super::rewrite::Rewrite;
use crate::istio::duration::TimeSpan;
use crate::istio::virtual_service::HttpRoute;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

/// The name of a route in the access log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RouteName {
    /// A service without a rule.
    #[default]
    Service,
    /// Of a rule, or empty.
    Rule(Arc<str>),
    /// The one for hosts that are not listed.
    BlockAll,
    /// The same where the policy allows them.
    AllowAny,
}

impl RouteName {
    /// As Istio names it (`pilot/pkg/networking/core`, `httproute.go`).
    pub fn as_str(&self) -> &str {
        match self {
            Self::Service => "default",
            Self::Rule(name) => name,
            Self::BlockAll => "block_all",
            Self::AllowAny => "allow_any",
        }
    }
}

/// The policy of one route. The default has no settings but Istio's default retries.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RoutePolicy {
    /// `name`.
    pub name: RouteName,
    /// `timeout`: from the end of the request to the end of the response.
    pub timeout: Option<Duration>,
    /// `retries`.
    pub retries: RetryPolicy,
    /// `fault`.
    pub fault: Fault,
    /// `corsPolicy`.
    pub cors: Option<Cors>,
    /// `rewrite`.
    pub rewrite: Rewrite,
    /// `headers`.
    pub headers: HeaderChanges,
    /// The name of its operation in a trace, up to the path. Otherwise host and port of the destination.
    pub operation: Option<Arc<str>>,
}

impl RoutePolicy {
    /// That of hosts that no rule lists and the policy allows: one attempt, and no operation in a trace (Istio
    /// `buildCatchAllVirtualHost`).
    pub fn allow_any() -> Arc<Self> {
        static POLICY: LazyLock<Arc<RoutePolicy>> = LazyLock::new(|| {
            Arc::new(RoutePolicy {
                name: RouteName::AllowAny,
                retries: RetryPolicy {
                    attempts: 0,
                    ..RetryPolicy::default()
                },
                ..RoutePolicy::default()
            })
        });
        Arc::clone(&POLICY)
    }

    /// Whether its requests are an operation in a trace.
    pub fn has_operation(&self) -> bool {
        self.name != RouteName::AllowAny
    }

    /// The limit of an attempt that begins this long after the end of the request, for
    /// `x-envoy-expected-rq-timeout-ms` (Envoy `FilterUtility::setTimeoutHeaders`). At least 1 ms: 0 would mean no limit.
    pub fn expected_timeout(&self, elapsed: Duration) -> Option<Duration> {
        let rest = self.timeout.map(|timeout| {
            let rest = timeout.saturating_sub(elapsed);
            rest.max(Duration::from_millis(1))
        });
        let each = self.per_try_timeout();
        [rest, each].into_iter().flatten().min()
    }

    /// `retries.perTryTimeout`, if it is shorter than the timeout (Envoy `FilterUtility::finalTimeout`).
    pub fn per_try_timeout(&self) -> Option<Duration> {
        let each = self.retries.per_try_timeout;
        each.filter(|each| self.timeout.is_none_or(|timeout| *each < timeout))
    }
}

impl From<&HttpRoute> for RoutePolicy {
    fn from(route: &HttpRoute) -> Self {
        // A route whose headers cannot be changed has no action.
        let headers = HeaderChanges::new(route.headers.as_ref()).unwrap_or_default();
        Self {
            name: RouteName::Rule(route.name.as_str().into()),
            timeout: route.timeout.map(TimeSpan::duration),
            retries: RetryPolicy::of_rule(route.retries.as_ref()),
            fault: route.fault.as_ref().map(Fault::from).unwrap_or_default(),
            cors: route.cors_policy.as_ref().map(Cors::from),
            rewrite: Rewrite::from(route),
            headers,
            operation: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_may_take_the_shorter_of_its_own_limit_and_the_rest_of_the_routes() {
        let (none, ms) = (None, |ms| Some(Duration::from_millis(ms)));
        for (timeout, each, elapsed, expected) in [
            (none, none, 0, none),
            (ms(3000), none, 0, ms(3000)),
            (ms(3000), none, 2900, ms(100)),
            (ms(3000), none, 3100, ms(1)),
            (none, ms(500), 9000, ms(500)),
            (ms(3000), ms(500), 0, ms(500)),
            (ms(3000), ms(500), 2800, ms(200)),
            (ms(500), ms(500), 100, ms(400)),
            (ms(500), ms(900), 0, ms(500)),
        ] {
            let policy = RoutePolicy {
                timeout,
                retries: RetryPolicy {
                    per_try_timeout: each,
                    ..RetryPolicy::default()
                },
                ..RoutePolicy::default()
            };
            let got = policy.expected_timeout(Duration::from_millis(elapsed));
            assert_eq!(got, expected, "{timeout:?} {each:?} {elapsed}");
        }
    }
}
