//! `VirtualService.http[].corsPolicy`: which origins may use a host, and the headers that say so.
//!
//! Source: istio `TranslateCORSPolicy`, Envoy `source/extensions/filters/http/cors/cors_filter.cc`. Header maps in,
//! header maps out.

use super::string_test::StringTest;
use crate::istio::virtual_service::{CorsPolicy, UnmatchedPreflights};
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, ORIGIN,
};
use http::{HeaderMap, HeaderValue, Method};

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub struct Cors {
    origins: Vec<StringTest>,
    /// `None` where the rule does not say it, so that the header is left out.
    methods: Option<HeaderValue>,
    headers: Option<HeaderValue>,
    exposed: Option<HeaderValue>,
    max_age: Option<HeaderValue>,
    credentials: bool,
    /// Preflights of other origins are answered without CORS headers.
    stops_others: bool,
}

/// What a policy does with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum CorsStep {
    /// It continues; the policy has nothing to say.
    Pass,
    /// It continues; its response gets the headers for this origin.
    PassFor(HeaderValue),
    /// A preflight: answered with 200 and these headers.
    Answer(HeaderMap),
}

fn joined(values: &[String]) -> Option<HeaderValue> {
    let text = values.join(",");
    HeaderValue::from_str(&text).ok().filter(|v| !v.is_empty())
}

impl From<&CorsPolicy> for Cors {
    fn from(policy: &CorsPolicy) -> Self {
        let mut origins: Vec<_> = policy.allow_origins.iter().map(StringTest::new).collect();
        if policy.allow_origins.is_empty() {
            let exact = policy.allow_origin.iter().cloned();
            origins.extend(exact.map(StringTest::Exact));
        }
        let seconds = policy.max_age.map(|age| age.duration().as_secs());
        Self {
            origins,
            methods: joined(&policy.allow_methods),
            headers: joined(&policy.allow_headers),
            exposed: joined(&policy.expose_headers),
            max_age: seconds.map(HeaderValue::from),
            credentials: policy.allow_credentials == Some(true),
            stops_others: policy.unmatched_preflights == UnmatchedPreflights::Ignore,
        }
    }
}

impl Cors {
    /// What happens to a request.
    pub fn step(&self, method: &Method, headers: &HeaderMap) -> CorsStep {
        let Some(origin) = headers.get(ORIGIN).filter(|origin| !origin.is_empty()) else {
            return CorsStep::Pass;
        };
        let asks = headers.get(ACCESS_CONTROL_REQUEST_METHOD);
        let is_preflight = *method == Method::OPTIONS && asks.is_some_and(|m| !m.is_empty());
        // As Envoy, an entry that takes the text `*` takes every origin.
        let takes = |test: &StringTest, origin| test.accepts("*") || test.accepts(origin);
        let allowed = self.origins.iter().any(|test| takes(test, origin));
        match (allowed, is_preflight) {
            (true, true) => CorsStep::Answer(self.preflight(origin, headers)),
            (true, false) => CorsStep::PassFor(origin.clone()),
            (false, true) if self.stops_others => CorsStep::Answer(HeaderMap::new()),
            (false, _) => CorsStep::Pass,
        }
    }

    fn preflight(&self, origin: &HeaderValue, asked: &HeaderMap) -> HeaderMap {
        let mut answer = HeaderMap::new();
        self.respond(&mut answer, origin);
        // As in Envoy, an asterisk allows what the preflight asks for.
        let allowed = |listed: &Option<HeaderValue>, name: HeaderName| {
            let listed = listed.as_ref()?;
            let asked = || asked.get(name).cloned();
            Some(if listed == "*" {
                asked().unwrap_or(HeaderValue::from_static(""))
            } else {
                listed.clone()
            })
        };
        let methods = allowed(&self.methods, ACCESS_CONTROL_REQUEST_METHOD);
        put(&mut answer, ACCESS_CONTROL_ALLOW_METHODS, methods.as_ref());
        let fields = allowed(&self.headers, ACCESS_CONTROL_REQUEST_HEADERS);
        put(&mut answer, ACCESS_CONTROL_ALLOW_HEADERS, fields.as_ref());
        put(&mut answer, ACCESS_CONTROL_MAX_AGE, self.max_age.as_ref());
        answer
    }

    /// Adds to the response what the client's browser wants to see.
    pub fn respond(&self, headers: &mut HeaderMap, origin: &HeaderValue) {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            let yes = HeaderValue::from_static("true");
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
        }
        put(
            headers,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            self.exposed.as_ref(),
        );
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: Option<&HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name, value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_headers::headers;
    use crate::istio::fields::StringMatch;

    fn policy() -> CorsPolicy {
        CorsPolicy {
            allow_origins: vec![StringMatch::Exact("cors.com".into())],
            allow_methods: vec!["POST".into(), "GET".into()],
            allow_headers: vec!["X-Foo-Bar".into(), "X-Foo-Baz".into()],
            expose_headers: vec!["x-seen".into()],
            allow_credentials: Some(false),
            ..CorsPolicy::default()
        }
    }

    fn preflight(origin: &'static str) -> HeaderMap {
        headers(&[
            ("origin", origin),
            ("access-control-request-method", "DELETE"),
        ])
    }

    #[test]
    fn a_preflight_of_a_listed_origin_is_answered() {
        let cors = Cors::from(&policy());
        let answer = cors.step(&Method::OPTIONS, &preflight("cors.com"));
        let expected = headers(&[
            ("access-control-allow-origin", "cors.com"),
            ("access-control-allow-methods", "POST,GET"),
            ("access-control-allow-headers", "X-Foo-Bar,X-Foo-Baz"),
            ("access-control-expose-headers", "x-seen"),
        ]);
        assert_eq!(answer, CorsStep::Answer(expected));
        let other = cors.step(&Method::OPTIONS, &preflight("other.com"));
        assert_eq!(other, CorsStep::Pass);
        let stopping = Cors::from(&CorsPolicy {
            unmatched_preflights: UnmatchedPreflights::Ignore,
            ..policy()
        });
        let other = stopping.step(&Method::OPTIONS, &preflight("other.com"));
        assert_eq!(other, CorsStep::Answer(HeaderMap::new()));
    }

    #[test]
    fn another_request_of_a_listed_origin_gets_the_headers_in_its_response() {
        let cors = Cors::from(&policy());
        let request = headers(&[("origin", "cors.com")]);
        let CorsStep::PassFor(origin) = cors.step(&Method::GET, &request) else {
            panic!("not passed for its origin");
        };
        let mut response = headers(&[("access-control-allow-origin", "*")]);
        cors.respond(&mut response, &origin);
        let expected = headers(&[
            ("access-control-allow-origin", "cors.com"),
            ("access-control-expose-headers", "x-seen"),
        ]);
        assert_eq!(response, expected);
        assert_eq!(cors.step(&Method::GET, &headers(&[])), CorsStep::Pass);
    }
}
