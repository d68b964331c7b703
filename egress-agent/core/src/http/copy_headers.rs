//! The headers by which the copy of a request for a mirror differs from the request.
//!
//! It sends nothing. Random numbers are parameters.

use super::headers::set_expected_timeout;
use super::trace::Span;
use super::values::Values;
use crate::traffic::mirror::shadow_host;
use http::HeaderMap;
use http::header::{HOST, HeaderValue};
use std::net::IpAddr;
use std::time::Duration;

/// What the headers of one copy are made from.
#[derive(Clone, Copy, Debug)]
pub struct CopyContext {
    /// Who sends it.
    pub from: IpAddr,
    /// A random number for its span in the trace.
    pub span_id: u64,
    /// Its limit, if there is one.
    pub timeout: Option<Duration>,
}

/// Turns the headers of a request on its way upstream into those of a copy (Envoy `async_client_impl.cc`
/// `AsyncStreamImpl::sendHeaders`; the span is a child of the request's).
pub fn prepare_copy(headers: &mut HeaderMap, context: &CopyContext) {
    if let Some(host) = headers.get(HOST).and_then(shadow_host) {
        headers.insert(HOST, host);
    }
    headers.insert("x-envoy-internal", HeaderValue::from_static("true"));
    let from = context.from.to_canonical();
    let before = headers.get("x-forwarded-for").and_then(|v| v.to_str().ok());
    let from = before.map_or_else(|| from.to_string(), |before| format!("{before},{from}"));
    if let Ok(from) = HeaderValue::from_str(&from) {
        headers.insert("x-forwarded-for", from);
    }
    if let Some(timeout) = context.timeout {
        set_expected_timeout(headers, timeout);
    }
    if let Some(span) = Span::of_copy(headers, context.span_id) {
        span.write(headers, &mut Values::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_headers::headers;

    fn get<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn a_copy_says_who_sends_it_and_is_a_child_in_the_trace() {
        let mut map = headers(&[
            ("host", "a.example:8080"),
            ("x-forwarded-for", "203.0.113.7"),
            ("x-b3-traceid", "00000000000000aa"),
            ("x-b3-spanid", "00000000000000aa"),
            ("x-envoy-expected-rq-timeout-ms", "500"),
        ]);
        let context = CopyContext {
            from: "::ffff:192.0.2.9".parse().unwrap(),
            span_id: 0xbb,
            timeout: Some(Duration::from_secs(3)),
        };
        prepare_copy(&mut map, &context);
        for (name, value) in [
            ("host", "a.example-shadow:8080"),
            ("x-forwarded-for", "203.0.113.7,192.0.2.9"),
            ("x-envoy-internal", "true"),
            ("x-b3-parentspanid", "00000000000000aa"),
            ("x-b3-spanid", "00000000000000bb"),
            ("x-envoy-expected-rq-timeout-ms", "3000"),
        ] {
            assert_eq!(get(&map, name), Some(value), "{name}");
        }
    }
}
