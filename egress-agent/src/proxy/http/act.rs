//! What the route of an allowed request does with it, in Istio's order: its faults, its cross-origin policy, then its
//! action; and the route's changes of the response's headers.
//!
//! It judges nothing. `exchange` carries a request upstream.

use super::exchange::exchange;
use super::interim::Interim;
use super::judge::Allowed;
use super::local::{Own, local_response, own_response};
use super::message_body::MessageBody;
use super::outgoing::values;
use super::reply_body::ReplyBody;
use super::request_body::RequestEnd;
use super::session::Session;
use crate::proxy::ticket::Ticket;
use bytes::Bytes;
use egress_core::http::format::{Format, Values};
use egress_core::http::local_reply::LocalReply;
use egress_core::http::response_flags::{ResponseFlag, ResponseFlags};
use egress_core::routing::RequestHead;
use egress_core::traffic::{
    AbortWith, CorsStep, DirectResponse, Fault, HeaderOps, HttpAction, Redirect, RedirectedFrom,
};
use hyper::Response;
use hyper::header::{HeaderValue, LOCATION, SERVER};
use hyper::http::{HeaderMap, Request};
use rustix::rand::{GetRandomFlags, getrandom};
use std::sync::Arc;
use tokio::time::sleep;

/// What a request says besides what its library knows.
pub(super) struct Asking {
    /// The one host that it names.
    pub(super) authority: String,
    /// The client's `expect`.
    pub(super) expect: Option<HeaderValue>,
    /// For the origin's 1xx responses.
    pub(super) interim: Interim,
}

/// Carries out what the route says.
pub(super) async fn act(
    session: &Session,
    allowed: &Allowed,
    asking: &Asking,
    request: Request<MessageBody>,
    end: Arc<RequestEnd>,
    mut ticket: Ticket,
) -> Response<ReplyBody> {
    let policy = &allowed.act.policy;
    let to = allowed.act.action.destinations();
    let own = to.and_then(|to| Some(&to.headers.as_ref()?.response));
    let changes = [own, Some(&policy.headers.response)];
    let changes = || changes.into_iter().flatten().filter(|ops| !ops.is_empty());
    // Most routes change nothing, and of those that do most need nothing of the request.
    let remembered = changes()
        .any(HeaderOps::has_formats)
        .then(|| Remembered::new(&request, allowed, asking));
    let (mut response, origin) = match inject(&policy.fault, &mut ticket).await {
        Some(own) => (own_response(own, ticket), None),
        None => under_cors(session, allowed, asking, request, end, ticket).await,
    };
    let flags = response.extensions().get().copied().unwrap_or_default();
    let ended = (response.status().as_u16(), flags);
    let headers = response.headers_mut();
    for ops in changes() {
        ops.apply(headers, |headers, format| {
            let text = |from: &Remembered| from.text(session, format, headers, ended);
            remembered.as_ref().map_or_else(String::new, text)
        });
    }
    if let Some((cors, origin)) = policy.cors.as_ref().zip(origin) {
        cors.respond(headers, &origin);
    }
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    response
}

/// Carries out the cross-origin policy and then the action. Returns the origin too, if the response is for it.
async fn under_cors(
    session: &Session,
    allowed: &Allowed,
    asking: &Asking,
    request: Request<MessageBody>,
    end: Arc<RequestEnd>,
    ticket: Ticket,
) -> (Response<ReplyBody>, Option<HeaderValue>) {
    let cors = allowed.act.policy.cors.as_ref();
    let step = cors.map(|cors| cors.step(request.method(), request.headers()));
    let origin = match step {
        Some(CorsStep::Answer(headers)) => return (preflight(headers, ticket), None),
        Some(CorsStep::PassFor(origin)) => Some(origin),
        Some(CorsStep::Pass) | None => None,
    };
    let response = carry_out(session, allowed, asking, request, end, ticket).await;
    (response, origin)
}

/// What formats of a response need of its request.
struct Remembered {
    request: Request<()>,
    authority: String,
    cluster: String,
}

impl Remembered {
    fn new(request: &Request<MessageBody>, allowed: &Allowed, asking: &Asking) -> Self {
        let mut copy = Request::new(());
        *copy.method_mut() = request.method().clone();
        *copy.uri_mut() = request.uri().clone();
        *copy.headers_mut() = request.headers().clone();
        let to = allowed.act.action.destinations();
        Self {
            request: copy,
            authority: asking.authority.clone(),
            cluster: to.map_or_else(String::new, |to| to.cluster.id.to_string()),
        }
    }

    fn text(
        &self,
        session: &Session,
        format: &Format,
        headers: &HeaderMap,
        (status, flags): (u16, ResponseFlags),
    ) -> String {
        let values = Values {
            response: Some((headers, status)),
            flags,
            ..values(
                session,
                RequestHead::of(&self.request, &self.authority),
                &self.cluster,
            )
        };
        format.text(&values, "")
    }
}

/// Delays a request, and returns the reply of one that is aborted.
async fn inject(fault: &Fault, ticket: &mut Ticket) -> Option<Own> {
    if let Some((fraction, time)) = fault.delay
        && fraction.takes(draw)
    {
        ticket.record.flags = ticket.record.flags.with(ResponseFlag::DI);
        sleep(time).await;
    }
    let (fraction, with) = fault.abort?;
    if !fraction.takes(draw) {
        return None;
    }
    Some(match with {
        AbortWith::Http(status) => Own::from(&LocalReply::fault_abort(status)),
        AbortWith::Grpc(status) => Own {
            grpc: Some(status),
            ..Own::from(&LocalReply::fault_abort(200))
        },
    })
}

/// A random number.
fn draw() -> u64 {
    let mut bytes = [0; 8];
    match getrandom(&mut bytes, GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => uuid::Uuid::new_v4().as_u64_pair().0,
    }
}

/// The answer to a preflight.
fn preflight(headers: HeaderMap, ticket: Ticket) -> Response<ReplyBody> {
    let ok = Own {
        status: 200,
        body: Bytes::new(),
        grpc: None,
        flags: ResponseFlags::default(),
    };
    let mut response = own_response(ok, ticket);
    response.headers_mut().extend(headers);
    response
}

async fn carry_out(
    session: &Session,
    allowed: &Allowed,
    asking: &Asking,
    request: Request<MessageBody>,
    end: Arc<RequestEnd>,
    ticket: Ticket,
) -> Response<ReplyBody> {
    match &allowed.act.action {
        HttpAction::Forward(to) => {
            exchange(session, to, allowed, asking, request, end, ticket).await
        }
        HttpAction::Redirect(redirect) => {
            let head = RequestHead::of(&request, &asking.authority);
            let from = RedirectedFrom {
                scheme: head.scheme(),
                authority: head.authority,
                target: head.path,
                port: session.client.origin.destination.port(),
                spec: &allowed.act.spec,
            };
            redirected(redirect, &from, ticket)
        }
        HttpAction::Direct(response) => {
            let own = Own {
                status: response.status,
                body: Bytes::from_owner(Body(Arc::clone(response))),
                grpc: None,
                flags: ResponseFlags::default(),
            };
            own_response(own, ticket)
        }
    }
}

/// The body of a fixed reply, which all requests of a route share.
struct Body(Arc<DirectResponse>);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.0.body
    }
}

fn redirected(
    redirect: &Redirect,
    from: &RedirectedFrom<'_>,
    ticket: Ticket,
) -> Response<ReplyBody> {
    let Ok(location) = HeaderValue::from_str(&redirect.location(from)) else {
        return local_response(&LocalReply::bad_request(), ticket);
    };
    let own = Own {
        status: redirect.status,
        body: Bytes::new(),
        grpc: None,
        flags: ResponseFlags::default(),
    };
    let mut response = own_response(own, ticket);
    response.headers_mut().insert(LOCATION, location);
    response
}
