//! The head of a request for its attempts: kept as long as a further one may need it.
//!
//! It sends nothing.

use hyper::header::HOST;
use hyper::http::HeaderMap;
use hyper::http::request::Parts;
use hyper::{Method, Request};

/// The head of the request, for all its attempts.
pub(super) struct Head(Option<Parts>);

impl Head {
    pub(super) fn new(parts: Parts) -> Self {
        Self(Some(parts))
    }

    /// The head for an attempt.
    pub(super) fn next(&mut self, spends: bool) -> Option<Parts> {
        if spends {
            self.0.take()
        } else {
            self.0.as_ref().map(clone_of)
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn change(&mut self, change: impl FnOnce(&mut HeaderMap)) {
        if let Some(parts) = &mut self.0 {
            change(&mut parts.headers);
        }
    }

    /// Of a method that may be sent twice (RFC 9110 §9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        let method = self.0.as_ref().map(|parts| &parts.method);
        method.is_some_and(Method::is_idempotent)
    }
}

/// The host that the request has by now, which may be another one than the client's.
pub(super) fn authority(parts: &Parts) -> &str {
    let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    host.or(parts
        .uri
        .authority()
        .map(hyper::http::uri::Authority::as_str))
        .unwrap_or_default()
}

/// The head of a request, without its extensions.
pub(super) fn clone_of(parts: &Parts) -> Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = parts.method.clone();
    copy.uri = parts.uri.clone();
    copy.version = parts.version;
    copy.headers = parts.headers.clone();
    copy
}
