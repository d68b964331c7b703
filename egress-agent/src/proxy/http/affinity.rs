//! The hash by which a request of a cluster with `consistentHash` keeps its endpoint, and the cookie that a client
//! without one gets.
//!
//! The choice by the hash is in `upstream::workload`.

use crate::proxy::client::Client;
use egress_core::routing::Cluster;
use egress_core::traffic::balance::{cookie_value, hash_of, query_parameter};
use egress_core::traffic::{Balance, Cookie, HashOn};
use hyper::header::HeaderValue;
use hyper::http::request::Parts;
use std::fmt::Write as _;

/// See the module.
#[derive(Default)]
pub(super) struct Affinity {
    /// Without it the endpoint is a random one.
    pub(super) hash: Option<u64>,
    /// The value of `set-cookie` in the response.
    pub(super) set_cookie: Option<HeaderValue>,
}

impl Affinity {
    /// Of a request to this cluster.
    pub(super) fn of(client: &Client, cluster: &Cluster, parts: &Parts) -> Self {
        let Some(Balance::Hash(on)) = &cluster.policy.balance else {
            return Self::default();
        };
        let hash = match on {
            HashOn::Header(name) => {
                let mut values: Vec<_> = parts.headers.get_all(name).iter().collect();
                values.sort_unstable();
                let all: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
                (!all.is_empty()).then(|| hash_of(&all.concat()))
            }
            HashOn::SourceIp => client.source_hash(cluster),
            HashOn::QueryParameter(name) => {
                let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
                query_parameter(path, name).map(|value| hash_of(value.as_bytes()))
            }
            HashOn::Cookie(cookie) => {
                if let Some(value) = cookie_value(&parts.headers, &cookie.name) {
                    Some(hash_of(value.as_bytes()))
                } else {
                    return Self::with_cookie(client, cookie);
                }
            }
        };
        let set_cookie = None;
        Self { hash, set_cookie }
    }

    /// The cookie of a client without one. All requests of a connection get the same (Envoy `router.cc`,
    /// `addDownstreamSetCookie`).
    fn with_cookie(client: &Client, cookie: &Cookie) -> Self {
        let Some(ttl) = cookie.ttl else {
            return Self::default();
        };
        let ends = format!("{}{}", client.peer, client.origin.destination);
        let value = format!("{:016x}", hash_of(ends.as_bytes()));
        let hash = Some(hash_of(value.as_bytes()));
        let mut line = format!("{}=\"{value}\"", cookie.name);
        // Writing to a string does not fail.
        if !ttl.is_zero() {
            let _ = write!(line, "; Max-Age={}", ttl.as_secs());
        }
        if !cookie.path.is_empty() {
            let _ = write!(line, "; Path={}", cookie.path);
        }
        for (name, value) in &cookie.attributes {
            let _ = match value.as_str() {
                "" => write!(line, "; {name}"),
                value => write!(line, "; {name}={value}"),
            };
        }
        line += "; HttpOnly";
        let set_cookie = HeaderValue::from_str(&line).ok();
        Self { hash, set_cookie }
    }
}
