//! `VirtualService.http[].match`: whether one request is what a route is for.
//!
//! Evaluates what only the request can tell. What is known before (port, gateways, the client's
//! labels and namespace) was decided when the routes were made. Forms as in
//! istio `pilot/pkg/networking/core/route/route.go` `translateRouteMatch`.

use super::decide::RequestHead;
use crate::istio::fields::StringMatch;
use crate::istio::virtual_service::HttpMatchRequest;
use regex::{Regex, RegexBuilder};

/// Largest compiled expression, in bytes.
const REGEX_SIZE: usize = 1 << 20;

/// One match, all of whose conditions must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpMatch {
    conditions: Vec<(Subject, Test)>,
}

/// What a request is found to be. Of several matches of a route the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fit {
    /// Some condition fails.
    No,
    /// All hold but for one that cannot be evaluated here.
    Unknown,
    /// All hold.
    Yes,
}

/// What a condition is about.
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
    /// Of a resource's match.
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

    /// Matches of which one of the first and one of the second list holds; an empty list is all
    /// requests.
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

    /// Whether every request fits.
    pub fn is_bare(&self) -> bool {
        self.conditions.is_empty()
    }

    /// Judges a request.
    pub fn fit(&self, head: &RequestHead<'_>) -> Fit {
        let mut found = Fit::Yes;
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
        Subject::Path => test.accepts(Some(path)),
        // Only plain HTTP is read here.
        Subject::Scheme => test.accepts(Some("http")),
        Subject::Method => test.accepts(Some(head.method)),
        Subject::Authority => test.accepts(Some(head.authority)),
        Subject::Header(name) => test.accepts(header(name, head).as_deref()),
        // An absent header counts as an empty one, but is not present.
        Subject::Without(name) => match (test, header(name, head)) {
            (Test::Present, value) => value.is_none(),
            (test, value) => !test.accepts(Some(value.as_deref().unwrap_or_default())),
        },
        Subject::Query(name) => test.accepts(query(name, head.path).as_deref()),
    }
}

impl Test {
    fn new(test: &StringMatch) -> Self {
        match test {
            StringMatch::Present => Self::Present,
            // Not RE2, but what Istio takes for "any value".
            StringMatch::Regex(pattern) if pattern == "*" => Self::Present,
            StringMatch::Exact(pattern) => Self::Exact(pattern.clone()),
            StringMatch::Prefix(pattern) => Self::Prefix(pattern.clone()),
            StringMatch::Regex(pattern) => RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
                .size_limit(REGEX_SIZE)
                .build()
                .map_or(Self::Broken, Self::Regex),
        }
    }

    fn accepts(&self, value: Option<&str>) -> bool {
        let Some(value) = value else {
            return false;
        };
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

/// A header's values joined by commas, as Envoy compares them; pseudo headers by their names.
fn header(name: &str, head: &RequestHead<'_>) -> Option<String> {
    match name {
        ":method" => return Some(head.method.to_owned()),
        ":path" => return Some(head.path.to_owned()),
        ":authority" | "host" => return Some(head.authority.to_owned()),
        ":scheme" => return Some("http".to_owned()),
        _ => {}
    }
    let values = head.headers.get_all(name);
    let values: Vec<_> = values
        .iter()
        .map(|v| String::from_utf8_lossy(v.as_bytes()))
        .collect();
    (!values.is_empty()).then(|| values.join(","))
}

/// The first value of a query parameter, decoded.
fn query(name: &str, target: &str) -> Option<String> {
    let (_, query) = target.split_once('?')?;
    let query = query.split('#').next().unwrap_or_default();
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(key) == name).then(|| decode(value))
    })
}

fn decode(text: &str) -> String {
    let hex = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        let pair = (hex(bytes.get(at + 1)), hex(bytes.get(at + 2)));
        if let (b'%', (Some(high), Some(low))) = (byte, pair) {
            out.push((high * 16 + low) as u8);
            at += 3;
        } else {
            out.push(*byte);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
#[path = "matching_tests.rs"]
mod tests;
