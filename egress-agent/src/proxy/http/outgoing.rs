//! The head of a request on its way upstream: what a sidecar adds and removes, then what the route changes.
//!
//! It sends nothing.

use super::asking::Asking;
use super::judge::Allowed;
use super::session::Session;
use crate::proxy::random::random;
use bytes::Bytes;
use egress_core::http::format::Values;
use egress_core::http::grpc_timeout::set_call_timeout;
use egress_core::http::headers::{prepare_request, set_attempt};
use egress_core::http::repeated::join_request;
use egress_core::http::response_flags::ResponseFlags;
use egress_core::http::trace::Span;
use egress_core::routing::{RequestHead, Target};
use hyper::header::{CONTENT_LENGTH, HOST, HeaderValue, TRANSFER_ENCODING};
use hyper::http::request::Parts;
use hyper::{Method, Uri};
use std::fmt;
use std::mem;
use std::time::Duration;

/// Prepares the head. `None` if the route's new path is not one.
pub(super) fn prepare(
    session: &Session,
    parts: &mut Parts,
    to: &Target,
    allowed: &Allowed,
    asking: &Asking,
) -> Option<()> {
    let timeout = allowed.act.policy.expected_timeout(Duration::ZERO);
    let has_operation = allowed.act.policy.has_operation();
    let operation = has_operation.then_some(Operation { to, allowed });
    let mut values = prepare_request(&mut parts.headers, timeout, operation);
    if let Some(timeout) = timeout.filter(|_| allowed.call) {
        set_call_timeout(&mut parts.headers, timeout);
    }
    // As in Envoy, a route may change the number of the first attempt, and cannot change the trace.
    set_attempt(&mut parts.headers, 1);
    let span = Span::of_request(&mut parts.headers, u128::from_ne_bytes(random()));
    change(session, parts, to, allowed, asking)?;
    if let Some(span) = span {
        span.write(&mut parts.headers, &mut values);
    }
    Some(())
}

/// Says over HTTP/1.1 how the body of a request ends, or that there is none, for the methods of which an origin may
/// expect one (Envoy `source/common/http/http1/codec_impl.cc`). hyper sends no body of unknown length with GET and HEAD
/// unless the header says so.
pub(super) fn frame(parts: &mut Parts, has_body: bool) {
    if has_body {
        if !parts.headers.contains_key(CONTENT_LENGTH) {
            let chunked = HeaderValue::from_static("chunked");
            parts.headers.insert(TRANSFER_ENCODING, chunked);
        }
        return;
    }
    let bodiless = [
        Method::GET,
        Method::HEAD,
        Method::DELETE,
        Method::TRACE,
        Method::CONNECT,
    ];
    if !bodiless.contains(&parts.method) {
        let none = HeaderValue::from_static("0");
        parts.headers.entry(CONTENT_LENGTH).or_insert(none);
    }
}

/// The name of the operation in a trace (Istio `GetRouteOperation`).
struct Operation<'a> {
    to: &'a Target,
    allowed: &'a Allowed,
}

impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, act) = (&self.to.cluster.id, &self.allowed.act);
        match &act.policy.operation {
            Some(of_rule) => write!(f, "{of_rule}{}", act.spec),
            None => write!(f, "{}:{}{}", id.host, id.port, act.spec),
        }
    }
}

/// Changes the head of a request as its route says (Envoy `finalizeRequestHeaders`): the headers of the destination,
/// then those of the route, the authority, the path. `None` if the new path is not one.
fn change(
    session: &Session,
    parts: &mut Parts,
    to: &Target,
    allowed: &Allowed,
    asking: &Asking,
) -> Option<()> {
    let own = to.headers.as_deref();
    for ops in own
        .into_iter()
        .chain([&allowed.act.policy.headers])
        .map(|c| &c.request)
    {
        if ops.is_empty() {
            continue;
        }
        let mut headers = mem::take(&mut parts.headers);
        ops.apply(&mut headers, |headers, format| {
            let target = parts.uri.path_and_query();
            let head = RequestHead {
                authority: &asking.authority,
                method: parts.method.as_str(),
                path: target.map_or("/", |target| target.as_str()),
                headers,
            };
            let cluster = to.cluster.id.to_string();
            format.text(&values(session, head, &cluster), "")
        });
        join_request(&mut headers);
        parts.headers = headers;
    }
    let rewrite = &allowed.act.policy.rewrite;
    let of_rule = rewrite
        .authority
        .as_ref()
        .or(allowed.act.policy.headers.authority.as_ref());
    let authority = of_rule.or(own.and_then(|own| own.authority.as_ref()));
    let former = authority.and_then(|new| parts.headers.insert(HOST, new.clone()));
    if let Some(former) = former {
        parts.headers.insert("x-envoy-original-host", former);
    }
    let former = parts.uri.path_and_query()?.as_str();
    if let Some(target) = rewrite.target(former, &allowed.act.spec) {
        let former = HeaderValue::from_str(former).ok()?;
        parts.headers.insert("x-envoy-original-path", former);
        parts.uri = Uri::from_maybe_shared(Bytes::from(target)).ok()?;
    }
    Some(())
}

/// A random number.
pub(super) fn draw() -> u64 {
    u64::from_ne_bytes(random())
}

/// The values of a request's formats, without those of a response.
pub(super) fn values<'a>(session: &Session, head: RequestHead<'a>, cluster: &'a str) -> Values<'a> {
    Values {
        method: head.method,
        authority: head.authority,
        target: head.path,
        scheme: head.scheme(),
        protocol: session.version(),
        request: head.headers,
        response: None,
        flags: ResponseFlags::default(),
        peer: session.client.peer,
        dialled: session.client.origin.destination,
        cluster,
    }
}
