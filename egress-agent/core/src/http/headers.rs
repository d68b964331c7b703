//! The headers that a sidecar adds, replaces and removes (Envoy `conn_manager_utility.cc`, Istio
//! `pilot/pkg/networking/util/proxy_headers.go`).
//!
//! Header maps in, header maps out. Random numbers are parameters.

use super::hop_by_hop::{UpgradeAsked, remove_hop_by_hop, remove_named_length, upgrade_asked};
use super::repeated::join_response;
use super::values::Values;
use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use std::fmt::Display;
use std::time::Duration;

// A name that is not parsed for each request.
static ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
static DECORATOR: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");
static EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Headers that Envoy obeys if a trusted client sends them. A workload may not steer its gate (Envoy
/// `cleanInternalHeaders`).
const STEERING: [&str; 21] = [
    "x-envoy-attempt-count",
    "x-envoy-decorator-operation",
    "x-envoy-downstream-service-cluster",
    "x-envoy-downstream-service-node",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-external-address",
    "x-envoy-force-trace",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-internal",
    "x-envoy-ip-tags",
    "x-envoy-max-retries",
    "x-envoy-original-path",
    "x-envoy-original-url",
    "x-envoy-retriable-header-names",
    "x-envoy-retriable-status-codes",
    "x-envoy-retry-grpc-on",
    "x-envoy-retry-on",
    "x-envoy-upstream-alt-stat-name",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-upstream-rq-timeout-ms",
];

/// Puts a client's request headers into the form that routes and the access log see (Envoy `mutateRequestHeaders`).
/// `id` makes an `x-request-id`, if the client sent none.
pub fn receive_request(headers: &mut HeaderMap, id: impl FnOnce() -> Option<HeaderValue>) {
    // Another upgrade than a websocket's is denied, but only if a route is found.
    let upgrades = upgrade_asked(headers) != UpgradeAsked::No;
    if !upgrades {
        remove_named_length(headers);
    }
    remove_hop_by_hop(headers, upgrades);
    // It would tell the origin whose certificate a mesh has verified, and none was (Envoy's `SANITIZE`).
    headers.remove("x-forwarded-client-cert");
    // Few clients send any of them. One pass over all headers is faster than a search for each name.
    if headers
        .keys()
        .any(|name| name.as_str().starts_with("x-envoy-"))
    {
        for name in STEERING {
            headers.remove(name);
        }
    }
    headers
        .entry(&FORWARDED_PROTO)
        .or_insert(HeaderValue::from_static("http"));
    let given = headers.get(&REQUEST_ID);
    if given.is_none_or(HeaderValue::is_empty)
        && let Some(id) = id()
    {
        headers.insert(&REQUEST_ID, id);
    }
}

/// Adds to a received request's headers what tells the upstream about its route: the limit of the first attempt, if
/// there is one, and the operation's name in a trace, if it has one. [`set_attempt`] adds `x-envoy-attempt-count` for each try.
pub fn prepare_request(
    headers: &mut HeaderMap,
    timeout: Option<Duration>,
    operation: Option<impl Display>,
) -> Values {
    let mut values = Values::default();
    if let Some(timeout) = timeout {
        let millis = millis(timeout);
        values.insert(headers, &EXPECTED_TIMEOUT, format_args!("{millis}"));
    }
    if let Some(operation) = operation {
        values.insert(headers, &DECORATOR, format_args!("{operation}"));
    }
    values
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A number, without an allocation if it has one digit.
fn number(number: u64) -> HeaderValue {
    const DIGITS: [&str; 10] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"];
    let digit = usize::try_from(number).ok().and_then(|at| DIGITS.get(at));
    digit.map_or_else(|| number.into(), |digit| HeaderValue::from_static(digit))
}

/// Tells the upstream how long an attempt may take.
pub fn set_expected_timeout(headers: &mut HeaderMap, timeout: Duration) {
    headers.insert(&EXPECTED_TIMEOUT, number(millis(timeout)));
}

/// Numbers a try, from 1.
pub fn set_attempt(headers: &mut HeaderMap, attempt: u32) {
    headers.insert(&ATTEMPT_COUNT, number(attempt.into()));
}

/// Turns an upstream's response headers into the client's. `waited` is the time from the end of the request to these
/// headers; `None` if the request has not ended. `server` is the proxy's too, once the route has changed the headers.
pub fn prepare_response(headers: &mut HeaderMap, waited: Option<Duration>, switching: bool) {
    remove_hop_by_hop(headers, switching);
    // It is one proxy's word to the next.
    headers.remove(&DECORATOR);
    join_response(headers);
    if let Some(waited) = waited {
        headers.insert(&SERVICE_TIME, number(millis(waited)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_headers::headers;

    const ID: &str = "6f2c1c1e-0000-4000-8000-000000000000";
    const OPERATION: &str = "httpbin.org:80/*";

    fn receive(headers: &mut HeaderMap) {
        receive_request(headers, || Some(HeaderValue::from_static(ID)));
    }

    fn prepare(headers: &mut HeaderMap, timeout: Option<Duration>) {
        receive(headers);
        prepare_request(headers, timeout, Some(OPERATION));
    }

    fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn the_upstream_sees_the_headers_that_a_sidecar_adds() {
        let mut map = headers(&[("host", "httpbin.org"), ("user-agent", "curl")]);
        prepare(&mut map, None);
        set_attempt(&mut map, 1);
        for (name, value) in [
            ("host", "httpbin.org"),
            ("user-agent", "curl"),
            ("x-forwarded-proto", "http"),
            ("x-request-id", ID),
            ("x-envoy-attempt-count", "1"),
            ("x-envoy-decorator-operation", OPERATION),
        ] {
            assert_eq!(get(&map, name), Some(value), "{name}");
        }
        assert_eq!(map.len(), 6, "{map:?}");
    }

    #[test]
    fn the_expected_timeout_is_sent_only_where_one_is_configured() {
        let mut map = HeaderMap::new();
        prepare(&mut map, Some(Duration::from_secs(3)));
        assert_eq!(get(&map, "x-envoy-expected-rq-timeout-ms"), Some("3000"));
        let mut map = headers(&[("x-envoy-expected-rq-timeout-ms", "1")]);
        prepare(&mut map, None);
        assert_eq!(get(&map, "x-envoy-expected-rq-timeout-ms"), None);
    }

    #[test]
    fn a_client_cannot_steer_the_proxy() {
        let mut map: HeaderMap = STEERING
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("9")))
            .collect();
        prepare(&mut map, None);
        set_attempt(&mut map, 2);
        assert_eq!(get(&map, "x-envoy-attempt-count"), Some("2"));
        assert_eq!(get(&map, "x-envoy-decorator-operation"), Some(OPERATION));
        let left = map
            .keys()
            .filter(|name| name.as_str().starts_with("x-envoy-"))
            .count();
        assert_eq!(left, 2, "{map:?}");
    }

    #[test]
    fn the_clients_own_request_id_is_kept() {
        let mut map = headers(&[("x-request-id", "mine")]);
        prepare(&mut map, None);
        assert_eq!(get(&map, "x-request-id"), Some("mine"));
        // An empty one says nothing.
        let mut map = headers(&[("x-request-id", "")]);
        prepare(&mut map, None);
        assert_eq!(get(&map, "x-request-id"), Some(ID));
    }

    #[test]
    fn fields_of_one_hop_end_here_and_what_addresses_cannot_be_named_away() {
        let mut map = headers(&[
            ("connection", "close, X-Secret, host, te"),
            ("x-secret", "1"),
            ("host", "httpbin.org"),
            ("content-length", "3"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("x-forwarded-client-cert", "By=spiffe://a"),
        ]);
        prepare(&mut map, None);
        for gone in [
            "connection",
            "x-secret",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "upgrade",
            "http2-settings",
            "x-forwarded-client-cert",
        ] {
            assert_eq!(get(&map, gone), None, "{gone}");
        }
        for (kept, value) in [
            ("host", "httpbin.org"),
            ("content-length", "3"),
            ("te", "trailers"),
        ] {
            assert_eq!(get(&map, kept), Some(value), "{kept}");
        }
    }

    #[test]
    fn a_length_that_is_named_is_left_to_the_next_hop() {
        let named = |connection| {
            let mut map = headers(&[
                ("connection", connection),
                ("upgrade", "websocket"),
                ("content-length", "3"),
            ]);
            receive(&mut map);
            get(&map, "content-length").is_none()
        };
        assert!(named("Content-Length"));
        assert!(named("close, content-length"));
        assert!(!named("close"));
        assert!(!named("upgrade, content-length"), "as in Envoy");
    }

    #[test]
    fn a_websocket_handshake_goes_on_as_one() {
        let mut map = headers(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        receive(&mut map);
        assert_eq!(
            (get(&map, "connection"), get(&map, "upgrade")),
            (Some("upgrade"), Some("websocket"))
        );
    }

    #[test]
    fn the_response_says_how_long_the_upstream_took() {
        let mut map = headers(&[
            ("server", "gunicorn"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("etag", "x"),
        ]);
        prepare_response(&mut map, Some(Duration::from_millis(42)), false);
        assert_eq!(
            (
                get(&map, "server"),
                get(&map, "x-envoy-upstream-service-time"),
                get(&map, "etag")
            ),
            (Some("gunicorn"), Some("42"), Some("x"))
        );
        assert_eq!(map.len(), 3, "{map:?}");
    }
}
