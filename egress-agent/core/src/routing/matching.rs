//! `VirtualService.http[].match`: whether a request matches a route.
//!
//! Evaluates the conditions on the request. Conditions that are known earlier (port, gateways, the
//! client's labels and namespace) are evaluated when the routes are built. Forms as in istio
//! `pilot/pkg/networking/core/route/route.go` `translateRouteMatch`.

use super::head::RequestHead;
use crate::http::headers::ends_here;
use crate::istio::fields::StringMatch;
use crate::istio::virtual_service::HttpMatchRequest;
use regex::{Regex, RegexBuilder};
use std::borrow::Cow;

/// Largest compiled expression, in bytes.
const REGEX_SIZE: usize = 1 << 20;

/// One match, all of whose conditions must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpMatch {
    conditions: Vec<(Subject, Test)>,
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

#[derive(Clone, Debug)]
enum Test {
    Present,
    Exact(String),
    Prefix(String),
    ExactAnyCase(String),
    PrefixAnyCase(String),
    Regex(Regex),
    /// An expression that cannot be compiled.
    Broken,
}

impl PartialEq for Test {
    fn eq(&self, other: &Self) -> bool {
        use Test::{Broken, Exact, ExactAnyCase, Prefix, PrefixAnyCase, Present, Regex};
        match (self, other) {
            (Present, Present) | (Broken, Broken) => true,
            (Exact(a), Exact(b))
            | (Prefix(a), Prefix(b))
            | (ExactAnyCase(a), ExactAnyCase(b))
            | (PrefixAnyCase(a), PrefixAnyCase(b)) => a == b,
            (Regex(a), Regex(b)) => a.as_str() == b.as_str(),
            (
                Present | Exact(_) | Prefix(_) | ExactAnyCase(_) | PrefixAnyCase(_) | Regex(_)
                | Broken,
                _,
            ) => false,
        }
    }
}

impl HttpMatch {
    /// From a resource's match.
    pub fn new(m: &HttpMatchRequest) -> Self {
        let mut conditions = Vec::new();
        if let Some(uri) = &m.uri {
            let test = match uri {
                StringMatch::Exact(text) if m.ignore_uri_case => {
                    Test::ExactAnyCase(text.to_ascii_lowercase())
                }
                StringMatch::Prefix(text) if m.ignore_uri_case => {
                    Test::PrefixAnyCase(text.to_ascii_lowercase())
                }
                StringMatch::Present
                | StringMatch::Exact(_)
                | StringMatch::Prefix(_)
                | StringMatch::Regex(_) => Test::new(uri),
            };
            conditions.push((Subject::Path, test));
        }
        let plain = [
            (Subject::Scheme, &m.scheme),
            (Subject::Method, &m.method),
            (Subject::Authority, &m.authority),
        ];
        for (subject, test) in plain {
            conditions.extend(test.as_ref().map(|t| (subject, Test::new(t))));
        }
        let lower = |name: &String| name.to_ascii_lowercase();
        conditions.extend(
            m.headers
                .iter()
                .map(|(n, t)| (Subject::Header(lower(n)), Test::new(t))),
        );
        let without = m.without_headers.iter();
        conditions.extend(without.map(|(n, t)| (Subject::Without(lower(n)), Test::new(t))));
        let query = m.query_params.iter();
        conditions.extend(query.map(|(n, t)| (Subject::Query(n.clone()), Test::new(t))));
        Self { conditions }
    }

    /// The matches that hold if one of the first and one of the second list holds. An empty list matches all requests.
    pub fn both(first: &[Self], second: Vec<Self>) -> Vec<Self> {
        if first.is_empty() || second.is_empty() {
            return if first.is_empty() {
                second
            } else {
                first.to_vec()
            };
        }
        let with = |a: &Self| {
            let joined = second
                .iter()
                .map(|b| [a.conditions.clone(), b.conditions.clone()].concat());
            joined
                .map(|conditions| Self { conditions })
                .collect::<Vec<_>>()
        };
        first.iter().flat_map(with).collect()
    }

    /// Whether every request matches.
    pub fn is_bare(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Judges a request for a route without a match. Such a route is for the prefix `/`, and `OPTIONS *` has no path.
    pub fn unconditional(head: &RequestHead<'_>) -> Fit {
        if head.path == "*" { Fit::No } else { Fit::Yes }
    }

    /// Judges a request.
    pub fn fit(&self, head: &RequestHead<'_>) -> Fit {
        let on_path = |(subject, _): &(Subject, Test)| *subject == Subject::Path;
        let mut found = if self.conditions.iter().any(on_path) {
            Fit::Yes
        } else {
            Self::unconditional(head)
        };
        if found == Fit::No {
            return found;
        }
        for (subject, test) in &self.conditions {
            if matches!(test, Test::Broken) {
                found = Fit::Unknown;
            } else if !holds(subject, test, head) {
                return Fit::No;
            }
        }
        found
    }
}

fn holds(subject: &Subject, test: &Test, head: &RequestHead<'_>) -> bool {
    let path = head.path.split(['?', '#']).next().unwrap_or_default();
    match subject {
        Subject::Path => test.accepts(path),
        Subject::Scheme => test.accepts(scheme(head)),
        Subject::Method => test.accepts(head.method),
        Subject::Authority => test.accepts(head.authority),
        Subject::Header(name) => values(name, head).iter().any(|value| test.accepts(value)),
        // An absent header has an empty value, but is not present.
        Subject::Without(name) => {
            let values = values(name, head);
            let passes = values.iter().any(|value| test.accepts(value));
            let empty_passes = *test != Test::Present && test.accepts("");
            !(passes || (values.is_empty() && empty_passes))
        }
        Subject::Query(name) => query(name, head.path).is_some_and(|value| test.accepts(value)),
    }
}

impl Test {
    fn new(test: &StringMatch) -> Self {
        match test {
            StringMatch::Present => Self::Present,
            // Not RE2; Istio uses it for "any value".
            StringMatch::Regex(pattern) if pattern == "*" => Self::Present,
            StringMatch::Exact(pattern) => Self::Exact(pattern.clone()),
            StringMatch::Prefix(pattern) => Self::Prefix(pattern.clone()),
            StringMatch::Regex(pattern) => RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
                .size_limit(REGEX_SIZE)
                .build()
                .map_or(Self::Broken, Self::Regex),
        }
    }

    fn accepts(&self, value: &str) -> bool {
        match self {
            Self::Present => true,
            Self::Exact(text) => value == text,
            Self::Prefix(text) => value.starts_with(text.as_str()),
            Self::ExactAnyCase(text) => value.eq_ignore_ascii_case(text),
            Self::PrefixAnyCase(text) => {
                let start = value.as_bytes().get(..text.len());
                start.is_some_and(|s| s.eq_ignore_ascii_case(text.as_bytes()))
            }
            Self::Regex(regex) => regex.is_match(value),
            Self::Broken => false,
        }
    }
}

/// A header's values. Each is compared by itself (Envoy's `match_headers_individually`). Pseudo headers have their
/// names.
fn values<'a>(name: &str, head: &RequestHead<'a>) -> Vec<Cow<'a, str>> {
    match name {
        ":method" => return vec![head.method.into()],
        ":path" => return vec![head.path.into()],
        ":authority" | "host" => return vec![head.authority.into()],
        ":scheme" => return vec![scheme(head).into()],
        // The proxy removes these before it looks for a route, as Envoy does.
        name if ends_here(name) => return Vec::new(),
        _ => {}
    }
    let values = head.headers.get_all(name).iter();
    let mut values: Vec<_> = values
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    if values.is_empty() && name == "x-forwarded-proto" {
        values.push("http".into());
    }
    values
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
