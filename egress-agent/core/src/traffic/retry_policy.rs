//! Which failed attempts of a request are made again, and when: Istio's `VirtualService.http[].retries` and Envoy's
//! retry state.
//!
//! Pure: the proxy makes the attempts. Sources: istio `pilot/pkg/networking/core/route/retry/retry.go`, Envoy
//! `source/common/router/retry_state_impl.cc`.

use super::retry_on::{Condition, RetryOn};
use crate::http::upstream_reset::UpstreamReset;
use crate::istio::duration::TimeSpan;
use crate::istio::virtual_service::HttpRetry;
use http::HeaderMap;
use std::time::Duration;

/// Envoy's base interval of the back-off (`upstream.base_retry_backoff_ms`).
const BASE: Duration = Duration::from_millis(25);

/// The gRPC statuses by which attempts are made again.
const GRPC: [(&str, Condition); 5] = [
    ("1", Condition::Cancelled),
    ("4", Condition::DeadlineExceeded),
    ("8", Condition::ResourceExhausted),
    ("13", Condition::Internal),
    ("14", Condition::Unavailable),
];

/// The retries of a route. The default is Istio's policy for routes without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first.
    pub attempts: u32,
    /// From the end of the request (or from the connection, if that comes later) to the head of the response, for each
    /// attempt.
    pub per_try_timeout: Option<Duration>,
    /// The failures that are tried again.
    pub on: RetryOn,
    /// The rule names the failures itself.
    pub named: bool,
    /// The base interval of the back-off.
    pub base: Duration,
    /// Whether an attempt avoids endpoints that were tried before, as long as there are others. Unset: unless the
    /// cluster is balanced by a hash.
    pub avoid_previous: Option<bool>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout: None,
            on: RetryOn::default(),
            named: false,
            base: BASE,
            avoid_previous: None,
        }
    }
}

impl RetryPolicy {
    /// The policy of a route whose rule has these `retries`.
    pub fn of_rule(rule: Option<&HttpRetry>) -> Self {
        let Some(rule) = rule else {
            return Self::default();
        };
        let attempts = u32::try_from(rule.attempts).unwrap_or(0);
        let all = Self::default();
        Self {
            attempts,
            per_try_timeout: rule.per_try_timeout.map(TimeSpan::duration),
            on: if rule.retry_on.is_empty() {
                all.on
            } else {
                RetryOn::parse(&rule.retry_on)
            },
            named: !rule.retry_on.is_empty(),
            base: rule.backoff.map_or(all.base, TimeSpan::duration),
            avoid_previous: rule.retry_ignore_previous_hosts,
        }
    }

    /// Whether an attempt with this response is made again, if retries are left.
    pub fn after_response(&self, status: u16, headers: &HeaderMap) -> bool {
        // Another Envoy denied the request by its rate limit: no other condition counts.
        if headers.contains_key("x-envoy-ratelimited") {
            return self.on.has(Condition::EnvoyRateLimited);
        }
        let by_status = match status {
            502..=504 => self.on.has(Condition::ServerError) || self.on.has(Condition::Gateway),
            500..=599 => self.on.has(Condition::ServerError),
            409 => self.on.has(Condition::Retriable4xx),
            _ => false,
        };
        by_status || self.on.has_code(status) || self.after_grpc(headers)
    }

    fn after_grpc(&self, headers: &HeaderMap) -> bool {
        let Some(status) = headers.get("grpc-status") else {
            return false;
        };
        let mut named = GRPC.into_iter().filter(|(number, _)| *number == status);
        named.any(|(_, condition)| self.on.has(condition))
    }

    /// Whether an attempt that lost its upstream is made again. `started`: bytes of the request were sent.
    pub fn after_reset(&self, reset: &UpstreamReset, started: bool) -> bool {
        let by_reason = match reset {
            UpstreamReset::Overflow(_) => return false,
            UpstreamReset::ConnectFailure(_)
            | UpstreamReset::TlsFailure(_)
            | UpstreamReset::ConnectTimeout => self.on.has(Condition::ConnectFailure),
            UpstreamReset::RemoteRefused => self.on.has(Condition::RefusedStream),
            UpstreamReset::Termination
            | UpstreamReset::ProtocolError
            | UpstreamReset::RemoteReset => false,
        };
        by_reason || self.after_loss(started)
    }

    /// Whether an attempt is made again whose [`Self::per_try_timeout`] has passed.
    pub fn after_timeout(&self) -> bool {
        self.after_loss(true)
    }

    /// Whether an attempt whose request was sent may be made again, so that the request has to be kept. `grpc`: the
    /// request is one of gRPC. The conditions of gRPC are in Istio's default, and other requests are not kept for them.
    /// `http2`: the origin gets HTTP/2, and may refuse a stream.
    pub fn repeats_sent(&self, grpc: bool, http2: bool) -> bool {
        let by_response = [Condition::EnvoyRateLimited, Condition::Retriable4xx];
        self.attempts > 0
            && (self.after_loss(true)
                || self.on.has_codes()
                || http2 && self.on.has(Condition::RefusedStream)
                || by_response.into_iter().any(|c| self.on.has(c))
                || (grpc || self.named) && GRPC.into_iter().any(|(_, c)| self.on.has(c)))
    }

    fn after_loss(&self, started: bool) -> bool {
        (self.on.has(Condition::ResetBeforeRequest) && !started)
            || self.on.has(Condition::Reset)
            || self.on.has(Condition::ServerError)
            || self.on.has(Condition::Gateway)
    }

    /// The wait before a retry, counted from 0: a random share of an interval that doubles up to ten times the base
    /// (Envoy `JitteredExponentialBackOffStrategy`). Whole milliseconds, as Envoy's.
    pub fn back_off(&self, retry: u32, random: u64) -> Duration {
        let base = self.base.as_millis();
        let doubled = base.checked_shl(retry.min(32)).unwrap_or(u128::MAX);
        // From the interval on whose double would be over the limit, it is the limit.
        let interval = doubled.min(base * 10);
        let millis = u128::from(random).checked_rem(interval).unwrap_or(0);
        Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_headers::headers;
    use crate::http::upstream_reset::connect_failure;

    fn on(text: &str) -> RetryPolicy {
        RetryPolicy {
            on: RetryOn::parse(text),
            named: true,
            ..RetryPolicy::default()
        }
    }

    #[test]
    fn the_default_policy_is_istios() {
        let policy = RetryPolicy::of_rule(None);
        assert_eq!(policy.attempts, 2);
        let refused = connect_failure("Connection refused", false);
        assert!(policy.after_reset(&refused, false));
        assert!(policy.after_reset(&UpstreamReset::ConnectTimeout, false));
        assert!(policy.after_reset(&UpstreamReset::RemoteRefused, true));
        assert!(!policy.after_reset(&UpstreamReset::RemoteReset, true));
        assert!(!policy.after_reset(&UpstreamReset::Termination, true));
        assert!(!policy.after_reset(&UpstreamReset::Termination, false));
        assert!(!policy.after_reset(&UpstreamReset::Overflow(None), false));
        assert!(!policy.after_timeout());
        let none = headers(&[]);
        for status in [500, 502, 503, 504, 429, 409] {
            assert!(!policy.after_response(status, &none), "{status}");
        }
        assert!(!policy.repeats_sent(false, false));
        assert!(policy.repeats_sent(true, false) && policy.repeats_sent(false, true));
        for (status, again) in [("14", true), ("1", true), ("13", false), ("0", false)] {
            let grpc = headers(&[("grpc-status", status)]);
            assert_eq!(policy.after_response(200, &grpc), again, "{status}");
        }
    }

    #[test]
    fn each_condition_is_met_by_the_failures_that_envoy_names() {
        let refused = connect_failure("Connection refused", false);
        for (text, status, again) in [
            ("5xx", 500, true),
            ("5xx", 503, true),
            ("5xx", 429, false),
            ("gateway-error", 500, false),
            ("gateway-error", 502, true),
            ("gateway-error", 504, true),
            ("retriable-4xx", 409, true),
            ("retriable-4xx", 404, false),
            ("429,503", 429, true),
            ("429,503", 503, true),
            ("429", 500, false),
            ("reset", 503, false),
        ] {
            let policy = on(text);
            assert!(policy.repeats_sent(false, false), "{text}");
            assert_eq!(
                policy.after_response(status, &headers(&[])),
                again,
                "{text} {status}"
            );
        }
        let limited = headers(&[("x-envoy-ratelimited", "true")]);
        let other = headers(&[("x-envoy-ratelimited", "")]);
        for (text, status, limited, again) in [
            ("envoy-ratelimited,5xx", 429, &limited, true),
            ("envoy-ratelimited", 429, &other, true),
            ("envoy-ratelimited,5xx", 429, &headers(&[]), false),
            ("envoy-ratelimited,5xx", 503, &headers(&[]), true),
            ("5xx", 503, &limited, false),
            ("429", 429, &other, false),
        ] {
            let policy = on(text);
            assert_eq!(
                policy.after_response(status, limited),
                again,
                "{text} {status}"
            );
        }
        for (text, started, again) in [
            ("5xx", true, true),
            ("gateway-error", true, true),
            ("reset", true, true),
            ("reset-before-request", true, false),
            ("reset-before-request", false, true),
            ("connect-failure", true, false),
            ("503", true, false),
        ] {
            let policy = on(text);
            let lost = UpstreamReset::Termination;
            assert_eq!(policy.after_reset(&lost, started), again, "{text}");
            assert!(!policy.after_reset(&UpstreamReset::Overflow(None), false));
        }
        assert!(!on("503").after_reset(&refused, false));
        assert!(on("5xx").after_reset(&refused, false));
    }

    #[test]
    fn the_back_off_doubles_up_to_ten_times_its_base() {
        let policy = RetryPolicy::default();
        for (retry, most) in [(0, 25), (1, 50), (2, 100), (3, 200), (4, 250), (40, 250)] {
            // The largest remainder.
            let longest = policy.back_off(retry, most - 1);
            assert_eq!(longest, Duration::from_millis(most - 1), "{retry}");
            assert_eq!(policy.back_off(retry, most), Duration::ZERO, "{retry}");
        }
        let none = RetryPolicy {
            base: Duration::ZERO,
            ..policy
        };
        assert_eq!(none.back_off(3, 7), Duration::ZERO);
    }

    #[test]
    fn a_rule_overrides_the_default_field_by_field() {
        let rule = HttpRetry {
            attempts: 5,
            ..HttpRetry::default()
        };
        let policy = RetryPolicy::of_rule(Some(&rule));
        assert_eq!((policy.attempts, policy.on), (5, RetryOn::default()));
        let off = RetryPolicy::of_rule(Some(&HttpRetry::default()));
        assert_eq!(off.attempts, 0);
    }
}
