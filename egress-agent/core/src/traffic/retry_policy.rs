//! Which failed attempts of a request are made again, and when: Istio's `VirtualService.http[].retries` and Envoy's
//! retry state.
//!
//! Pure: the proxy makes the attempts. Sources: istio `pilot/pkg/networking/core/route/retry/retry.go`, Envoy
//! `source/common/router/retry_state_impl.cc`.

use super::retry_on::{Condition, RetryOn};
use crate::http::upstream_reset::UpstreamReset;
use crate::istio::duration::TimeSpan;
use crate::istio::virtual_service::HttpRetry;
use http::{HeaderMap, HeaderName, HeaderValue};
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
    /// With the condition `retriable-headers`: headers of a response that is tried again. No rule has a field for them.
    pub headers: Vec<HeaderName>,
}

/// Headers by which a route's header operations change the retries of a request, as in Envoy (`RetryStateImpl`).
const OF_RULE: [&str; 5] = [
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-max-retries",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
];
/// Headers that Envoy takes off a request, too, and that change nothing here.
const IGNORED: [&str; 3] = [
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-rq-timeout-alt-response",
];

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout: None,
            on: RetryOn::default(),
            named: false,
            base: BASE,
            avoid_previous: None,
            headers: Vec::new(),
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
            headers: Vec::new(),
        }
    }

    /// The policy of a request whose headers a rule has changed. Takes the headers that are for the proxy off it. `None`:
    /// none of them changes it.
    pub fn changed_by(&self, headers: &mut HeaderMap) -> Option<Self> {
        for name in IGNORED {
            headers.remove(name);
        }
        let [on, grpc, most, codes, names] = OF_RULE.map(|name| headers.remove(name));
        let text = |value: &Option<HeaderValue>| {
            let text = value.as_ref().and_then(|value| value.to_str().ok());
            text.map(str::to_owned)
        };
        if [&on, &grpc, &most, &codes, &names]
            .iter()
            .all(|v| v.is_none())
        {
            return None;
        }
        let mut policy = self.clone();
        if policy.attempts == 0 {
            // Istio gives a route without retries no policy, and Envoy's own has one retry for what headers name.
            (policy.attempts, policy.on) = (1, RetryOn::none());
        }
        let conditions = [(&on, false), (&grpc, true)];
        for (header, of_grpc) in conditions {
            let text = text(header).unwrap_or_default();
            policy.on.add_conditions(&text, |condition| {
                GRPC.iter().any(|(_, grpc)| *grpc == condition) == of_grpc
            });
        }
        if let Some(codes) = text(&codes) {
            policy.on.add_codes(&codes);
        }
        if let Some(most) = text(&most).and_then(|most| most.trim().parse().ok()) {
            policy.attempts = most;
        }
        let names = text(&names).unwrap_or_default();
        let names = names.split(',').filter_map(|name| name.trim().parse().ok());
        policy.headers = names.collect();
        Some(policy)
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
        let by_header = || {
            let mut named = self.headers.iter();
            self.on.has(Condition::Headers) && named.any(|name| headers.contains_key(name))
        };
        by_status || self.on.has_code(status) || by_header() || self.after_grpc(headers)
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
            && (!self.headers.is_empty()
                || self.after_loss(true)
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

    #[test]
    fn headers_of_a_rule_change_the_retries_and_leave_the_request() {
        let changed = |policy: &RetryPolicy, list: &[(&'static str, &'static str)]| {
            let own = list.iter().chain([&("x-own", "1")]);
            let mut headers: HeaderMap = own
                .map(|(name, value)| {
                    let value = HeaderValue::from_static(value);
                    (HeaderName::from_static(name), value)
                })
                .collect();
            let changed = policy.changed_by(&mut headers);
            assert_eq!(headers.len(), 1, "{headers:?}");
            changed
        };
        let policy = RetryPolicy::default();
        assert_eq!(changed(&policy, &[]), None);
        assert_eq!(
            changed(&policy, &[("x-envoy-hedge-on-per-try-timeout", "true")]),
            None
        );
        let named = [
            ("x-envoy-retry-on", "5xx, cancelled"),
            ("x-envoy-max-retries", "4"),
        ];
        let five = changed(&policy, &named).unwrap();
        assert_eq!(five.attempts, 4);
        assert!(five.after_response(500, &HeaderMap::new()));
        let of_grpc = [("x-envoy-retry-grpc-on", "internal,5xx")];
        let grpc = changed(&policy, &of_grpc).unwrap();
        assert!(grpc.on.has(Condition::Internal) && !grpc.on.has(Condition::ServerError));
        let none = RetryPolicy {
            attempts: 0,
            ..RetryPolicy::default()
        };
        let on = changed(&none, &[("x-envoy-retry-on", "retriable-4xx")]).unwrap();
        assert_eq!(on.attempts, 1);
        assert!(on.after_response(409, &HeaderMap::new()));
        assert!(!on.on.has(Condition::ConnectFailure), "{:?}", on.on);
        let by_header = [
            ("x-envoy-retry-on", "retriable-headers"),
            ("x-envoy-retriable-header-names", "x-again"),
        ];
        let by_header = changed(&policy, &by_header).unwrap();
        let again = HeaderMap::from_iter([(
            HeaderName::from_static("x-again"),
            HeaderValue::from_static("1"),
        )]);
        assert!(by_header.after_response(200, &again) && by_header.repeats_sent(false, false));
    }

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
