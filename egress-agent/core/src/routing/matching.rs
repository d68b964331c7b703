//! `VirtualService.http[].match`: whether a request matches a route.
//!
//! Evaluates the conditions on the request. Conditions that are known earlier (port, gateways, the
//! client's labels and namespace) are evaluated when the routes are built. Forms as in istio
//! `pilot/pkg/networking/core/route/route.go` `translateRouteMatch`.

use super::head::RequestHead;
use crate::istio::virtual_service::HttpMatchRequest;
use crate::traffic::{PathSpec, StringTest};
use http::HeaderValue;

/// One match, all of whose conditions must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpMatch {
    conditions: Vec<(Subject, StringTest)>,
    path: PathSpec,
}

/// Whether a request matches. Of several matches of a route the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// Some condition fails.
    No,
    /// All hold except one that cannot be evaluated here.
    Unknown,
    /// All hold.
    Yes,
}

/// What a condition tests.
#[derive(Clone, Debug, PartialEq)]
enum Subject {
    Path,
    Scheme,
    Method,
    Authority,
    Header(String),
    /// A header that must not pass its test.
    Without(String),
    Query(String),
}

impl HttpMatch {
    /// From a resource's match.
    pub fn new(m: &HttpMatchRequest) -> Self {
        let mut conditions = Vec::new();
        let path = m.uri.as_ref().map(PathSpec::new).unwrap_or_default();
        if let Some(uri) = &m.uri {
            let test = if m.ignore_uri_case {
                StringTest::any_case(uri)
            } else {
                StringTest::new(uri)
            };
            conditions.push((Subject::Path, test));
        }
        let plain = [
            (Subject::Scheme, &m.scheme),
            (Subject::Method, &m.method),
            (Subject::Authority, &m.authority),
        ];
        for (subject, test) in plain {
            conditions.extend(test.as_ref().map(|t| (subject, StringTest::new(t))));
        }
        let lower = |name: &String| name.to_ascii_lowercase();
        conditions.extend(
            m.headers
                .iter()
                .map(|(n, t)| (Subject::Header(lower(n)), StringTest::new(t))),
        );
        let without = m.without_headers.iter();
        conditions.extend(without.map(|(n, t)| (Subject::Without(lower(n)), StringTest::new(t))));
        let query = m.query_params.iter();
        conditions.extend(query.map(|(n, t)| (Subject::Query(n.clone()), StringTest::new(t))));
        Self { conditions, path }
    }

    /// The match that holds if both do. The path is that of the other, if it has one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.conditions.extend(other.conditions);
        self.path = match other.path {
            PathSpec::Any => self.path,
            own => own,
        };
        self
    }

    /// Whether a condition is an expression that cannot be compiled.
    pub fn is_broken(&self) -> bool {
        self.conditions.iter().any(|(_, test)| test.is_broken())
    }

    /// Whether every request matches.
    pub fn is_bare(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Judges a request for a route with these matches, and returns the path of the first that it meets.
    pub fn best(matches: &[Self], head: &RequestHead<'_>) -> (Fit, PathSpec) {
        if matches.is_empty() {
            return (Self::unconditional(head), PathSpec::default());
        }
        let mut best = (Fit::No, PathSpec::default());
        for one in matches {
            match one.fit(head) {
                Fit::Yes => return (Fit::Yes, one.path.clone()),
                Fit::Unknown => best.0 = Fit::Unknown,
                Fit::No => {}
            }
        }
        best
    }

    /// Judges a request for a route without a match. Such a route is for the prefix `/`, and `OPTIONS *` has no path.
    fn unconditional(head: &RequestHead<'_>) -> Fit {
        if head.path == "*" { Fit::No } else { Fit::Yes }
    }

    /// Judges a request.
    pub fn fit(&self, head: &RequestHead<'_>) -> Fit {
        let on_path = |(subject, _): &(Subject, StringTest)| *subject == Subject::Path;
        let mut found = if self.conditions.iter().any(on_path) {
            Fit::Yes
        } else {
            Self::unconditional(head)
        };
        if found == Fit::No {
            return found;
        }
        for (subject, test) in &self.conditions {
            if test.is_broken() {
                found = Fit::Unknown;
            } else if !holds(subject, test, head) {
                return Fit::No;
            }
        }
        found
    }
}

fn holds(subject: &Subject, test: &StringTest, head: &RequestHead<'_>) -> bool {
    let path = head.path.split(['?', '#']).next().unwrap_or_default();
    match subject {
        Subject::Path => test.accepts(path),
        Subject::Scheme => test.accepts(scheme(head)),
        Subject::Method => test.accepts(head.method),
        Subject::Authority => test.accepts(head.authority),
        Subject::Header(name) => values(name, head).any(|value| test.accepts(value)),
        // An absent header has an empty value, but is not present.
        Subject::Without(name) => {
            let mut values = values(name, head).peekable();
            if values.peek().is_none() {
                return *test == StringTest::Present || !test.accepts("");
            }
            !values.any(|value| test.accepts(value))
        }
        Subject::Query(name) => query(name, head.path).is_some_and(|value| test.accepts(value)),
    }
}

/// A header's values. Each is compared by itself (Envoy's `match_headers_individually`). Pseudo headers have their
/// names.
fn values<'a>(name: &str, head: &RequestHead<'a>) -> impl Iterator<Item = &'a [u8]> {
    let one = match name {
        ":method" => Some(head.method),
        ":path" => Some(head.path),
        ":authority" | "host" => Some(head.authority),
        ":scheme" => Some(scheme(head)),
        _ => None,
    };
    let sent = one.is_none().then(|| head.headers.get_all(name).iter());
    let one = one.map(str::as_bytes).into_iter();
    one.chain(sent.into_iter().flatten().map(HeaderValue::as_bytes))
}

impl RequestHead<'_> {
    /// The scheme of a plain-text request.
    pub fn scheme(&self) -> &'static str {
        scheme(self)
    }
}

/// The scheme of a plain-text request: the value of `x-forwarded-proto` if it is one of the two (Envoy
/// `conn_manager_utility.cc`).
fn scheme(head: &RequestHead<'_>) -> &'static str {
    let mut values = head.headers.get_all("x-forwarded-proto").iter();
    match (values.next(), values.next()) {
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"https") => "https",
        _ => "http",
    }
}

/// The first value of a query parameter, as written in the URL.
fn query<'a>(name: &str, target: &'a str) -> Option<&'a str> {
    let (_, query) = target.split_once('?')?;
    let query = query.split('#').next().unwrap_or_default();
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
