//! How the endpoint of a flow is chosen: `trafficPolicy.loadBalancer`.
//!
//! Owns which fields are read, and what a hash is made of. The proxy counts the requests of each endpoint.

use crate::istio::destination_rule::{
    ConsistentHashLb, HttpCookie, LoadBalancerSettings, SimpleLb,
};
use crate::istio::duration::TimeSpan;
use http::HeaderMap;
use http::header::COOKIE;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::Duration;

/// How the endpoint of a flow is chosen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Balance {
    /// Of two endpoints, the one with fewer requests. Istio's default.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// At random.
    Random,
    /// The address that the client dialled.
    Passthrough,
    /// By a hash of something of the flow.
    Hash(HashOn),
}

/// What is hashed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashOn {
    /// The values of this header, in lower case.
    Header(String),
    /// A cookie, which is made for a client without it if it has a lifetime.
    Cookie(Cookie),
    /// The client's address.
    SourceIp,
    /// The first value of this query parameter.
    QueryParameter(String),
}

/// A cookie that names an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cookie {
    /// Its name.
    pub name: String,
    /// The path of one that is made.
    pub path: String,
    /// The lifetime of one that is made; zero is that of the session. Without it none is made.
    pub ttl: Option<Duration>,
    /// Further attributes, with their values.
    pub attributes: Vec<(String, String)>,
}

impl Balance {
    /// The balance of a rule. `None` if the rule leaves it to the default.
    pub fn of_rule(rule: &LoadBalancerSettings) -> Option<Self> {
        if let Some(hash) = &rule.consistent_hash {
            return HashOn::of_rule(hash).map(Self::Hash);
        }
        match rule.simple? {
            SimpleLb::Unspecified => None,
            // Istio makes least request of the deprecated name.
            SimpleLb::LeastConn | SimpleLb::LeastRequest => Some(Self::LeastRequest),
            SimpleLb::Random => Some(Self::Random),
            SimpleLb::Passthrough => Some(Self::Passthrough),
            SimpleLb::RoundRobin => Some(Self::RoundRobin),
        }
    }
}

impl HashOn {
    fn of_rule(rule: &ConsistentHashLb) -> Option<Self> {
        if let Some(name) = &rule.http_header_name {
            return Some(Self::Header(name.to_ascii_lowercase()));
        }
        if let Some(cookie) = &rule.http_cookie {
            return Some(Self::Cookie(cookie.into()));
        }
        if let Some(name) = &rule.http_query_parameter_name {
            return Some(Self::QueryParameter(name.clone()));
        }
        (rule.use_source_ip == Some(true)).then_some(Self::SourceIp)
    }
}

impl From<&HttpCookie> for Cookie {
    fn from(rule: &HttpCookie) -> Self {
        let attributes = rule.attributes.iter();
        Self {
            name: rule.name.clone(),
            path: rule.path.clone(),
            ttl: rule.ttl.map(TimeSpan::duration),
            attributes: attributes
                .map(|a| (a.name.clone(), a.value.clone()))
                .collect(),
        }
    }
}

/// The score of an endpoint for a hash: the endpoints with the highest scores get the flow, so that a change of one
/// endpoint moves only its own flows (rendezvous hashing).
pub fn score(hash: u64, endpoint: SocketAddr) -> u64 {
    let mut hasher = DefaultHasher::new();
    (hash, endpoint).hash(&mut hasher);
    hasher.finish()
}

/// The hash of a text.
pub fn hash_of(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The value of a cookie among the `cookie` headers.
pub fn cookie_value<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(COOKIE).iter();
    let mut pairs = lines.flat_map(|line| line.to_str().unwrap_or_default().split(';'));
    pairs.find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

/// The value of a query parameter, undecoded.
pub fn query_parameter<'p>(path: &'p str, name: &str) -> Option<&'p str> {
    let (_, query) = path.split_once('?')?;
    query.split('&').find_map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::test_headers::headers;

    #[test]
    fn an_endpoint_that_leaves_moves_only_its_own_flows() {
        let endpoint = |last| SocketAddr::from(([192, 0, 2, last], 80));
        let pick = |hash, all: std::ops::RangeInclusive<u8>| {
            let scored = all.map(|last| (score(hash, endpoint(last)), last));
            scored.max().expect("there are some").1
        };
        let mut counts = [0_u32; 5];
        for flow in 0..1000_u32 {
            let hash = hash_of(&flow.to_be_bytes());
            let (of_four, of_three) = (pick(hash, 1..=4), pick(hash, 1..=3));
            counts[of_four as usize] += 1;
            assert!(of_four == of_three || of_four == 4);
        }
        assert!(
            counts[1..].iter().all(|c| (150..350).contains(c)),
            "{counts:?}"
        );
    }

    #[test]
    fn cookies_and_query_parameters_are_found_by_name() {
        let map = headers(&[("cookie", "a=1; user=\"x y\"; b=2")]);
        assert_eq!(cookie_value(&map, "user"), Some("x y"));
        assert_eq!(cookie_value(&map, "us"), None);
        assert_eq!(query_parameter("/p?a=1&user=7", "user"), Some("7"));
        assert_eq!(query_parameter("/p?user", "user"), Some(""));
        assert_eq!(query_parameter("/user=7", "user"), None);
    }
}
