//! What the route of an allowed request does with it, in Istio's order: its faults, its cross-origin policy, then its
//! action; and the route's changes of the response's headers.
//!
//! It judges nothing itself. `exchange` carries a request upstream.

use super::asking::Asking;
use super::exchange::exchange;
use super::judge::{Allowed, Judge};
use super::local::{FramingOfNoBody, Own, own_response};
use super::outgoing::{draw, values};
use super::reply_body::ReplyBody;
use super::request_body::RequestEnd;
use super::session::Session;
use crate::proxy::message_body::MessageBody;
use crate::proxy::observe::DenialReason;
use crate::proxy::ticket::Ticket;
use bytes::Bytes;
use egress_core::http::format::{Format, Values};
use egress_core::http::hop_by_hop::{UpgradeAsked, upgrade_asked};
use egress_core::http::local_reply::{LocalReply, is_grpc};
use egress_core::http::repeated::join_response;
use egress_core::http::response_flags::{ResponseFlag, ResponseFlags};
use egress_core::http::response_head::CHUNKED;
use egress_core::routing::{HttpDenial, RequestHead, Target};
use egress_core::traffic::{
    AbortWith, CorsStep, DirectResponse, Fault, HeaderOps, HttpAction, Redirect, RedirectedFrom,
    RouteName,
};
use hyper::header::{
    CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, LOCATION, SERVER, TRANSFER_ENCODING,
};
use hyper::http::{HeaderMap, Request};
use hyper::{Method, Response, StatusCode};
use std::sync::Arc;
use tokio::time::sleep;

/// Carries out what the route says.
pub(super) async fn act(
    session: &Session,
    allowed: &Allowed,
    asking: &Asking,
    request: Request<MessageBody>,
    end: Arc<RequestEnd>,
    ticket: Ticket,
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
    let is_head = request.method() == Method::HEAD;
    let mut origin = None;
    let mut is_preflight = false;
    // In Envoy, only routes with destinations have a cross-origin policy.
    let cors = policy.cors.as_ref().filter(|_| to.is_some());
    let way = match (aborted(&policy.fault), cors) {
        _ if allowed.is_denied_upgrade() => {
            let denied = DenialReason::UpgradeDenied;
            session.client.deny(denied, Some(&asking.authority));
            Err(Box::new((&LocalReply::upgrade_denied()).into()))
        }
        (Some(own), _) => Err(Box::new(own)),
        (None, None) => way(session, allowed, asking, &request),
        (None, Some(cors)) => match cors.step(request.method(), request.headers()) {
            CorsStep::Answer(headers) => {
                is_preflight = true;
                Err(Box::new(Own {
                    headers,
                    details: "cors_response".into(),
                    ..Own::empty(200)
                }))
            }
            CorsStep::Pass => way(session, allowed, asking, &request),
            CorsStep::PassFor(asked) => {
                origin = Some(asked);
                way(session, allowed, asking, &request)
            }
        },
    };
    // The request moves once: each further future around the exchange would hold it again.
    let mut response = match way {
        Ok(to) => Box::pin(exchange(session, to, allowed, asking, request, end, ticket)).await,
        Err(own) => own_response(*own, ticket),
    };
    let flags = response.extensions().get().copied().unwrap_or_default();
    // In Envoy, a reply of the proxy gets its status and its type behind the changes of its route.
    let length = response.headers().get(CONTENT_LENGTH);
    let is_text = length.is_some_and(|length| length != "0");
    let is_switch = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let ended = match response.body() {
        ReplyBody::Local(_) if !is_switch => (0, flags),
        _ => (response.status().as_u16(), flags),
    };
    let headers = response.headers_mut();
    let had_length = headers.contains_key(CONTENT_LENGTH);
    for ops in changes().filter(|_| !is_preflight) {
        ops.apply(headers, |headers, format| {
            let text = |from: &Remembered| from.text(session, format, headers, ended);
            remembered.as_ref().map_or_else(String::new, text)
        });
        join_response(headers);
    }
    let lost_length = had_length && !headers.contains_key(CONTENT_LENGTH);
    if let Some((cors, origin)) = policy.cors.as_ref().zip(origin) {
        cors.respond(headers, &origin);
    }
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    if is_text && ended.0 == 0 && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    if lost_length && ended.0 != 0 && session.version() == "HTTP/1.1" {
        frame_by_chunks(&mut response, is_head);
    }
    let (head, mut body) = response.into_parts();
    if let Some(ticket) = body.ticket() {
        ticket.answers(&head.headers);
    }
    Response::from_parts(head, body)
}

/// Says that chunks tell where the body of an origin's response ends: its route has removed the length.
fn frame_by_chunks(response: &mut Response<ReplyBody>, is_head: bool) {
    let without_body = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED];
    if without_body.contains(&response.status()) {
        // The length of another body.
        response.extensions_mut().remove::<FramingOfNoBody>();
    } else if is_head {
        let lines = FramingOfNoBody(CHUNKED.to_vec());
        response.extensions_mut().insert(lines);
    } else {
        let chunked = HeaderValue::from_static("chunked");
        response.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
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
        let seen = (status == 0).then(|| without_own(headers));
        let values = Values {
            response: Some((seen.as_ref().unwrap_or(headers), status)),
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

/// The headers of the proxy's own reply that formats see: as in Envoy, these three come behind the changes of the route,
/// but for the type of a gRPC reply.
fn without_own(headers: &HeaderMap) -> HeaderMap {
    let mut seen = headers.clone();
    let kind = seen.get(CONTENT_TYPE);
    if kind.is_some_and(|kind| !is_grpc(kind.as_bytes())) {
        seen.remove(CONTENT_TYPE);
    }
    for name in [CONTENT_LENGTH, SERVER] {
        seen.remove(name);
    }
    seen
}

/// Judges a request, and again after a delay of its route: what allowed it may have ended meanwhile.
pub(super) async fn judged<B>(
    judge: &Judge,
    request: &Request<B>,
    authority: &str,
    ticket: &mut Ticket,
) -> Result<Allowed, Box<HttpDenial>> {
    let allowed = judge.judge(request, authority).map_err(|mut denial| {
        let unlisted = matches!(
            denial.reason,
            DenialReason::UnlistedHost | DenialReason::BadHost(_)
        );
        ticket.record.route = unlisted.then_some(RouteName::BlockAll);
        // As in Envoy, only where no route is found the upgrade is not looked at.
        let other = upgrade_asked(request.headers()) == UpgradeAsked::Other;
        if other && denial.reason != DenialReason::NoRoute {
            denial.reply = LocalReply::upgrade_denied();
        }
        denial
    })?;
    let mut note = |allowed: &Allowed| {
        if allowed.denied.is_some() {
            return;
        }
        let to = allowed.act.action.destinations();
        ticket.record.cluster = to.map(|to| to.cluster.id.clone());
        ticket.record.route = Some(allowed.act.policy.name.clone());
    };
    note(&allowed);
    match allowed.act.policy.fault.delay {
        Some((fraction, time)) if !allowed.is_denied_upgrade() && fraction.takes(draw) => {
            ticket.record.flags = ticket.record.flags.with(ResponseFlag::DI);
            sleep(time).await;
            // The rules may have changed, and the request may get another of several destinations.
            let again = judge.judge(request, authority)?;
            note(&again);
            Ok(again)
        }
        Some(_) | None => Ok(allowed),
    }
}

/// The reply to a request that is aborted.
fn aborted(fault: &Fault) -> Option<Own> {
    let (_, with) = fault.abort.filter(|(fraction, _)| fraction.takes(draw))?;
    Some(match with {
        AbortWith::Http(status) => Own::from(&LocalReply::fault_abort(status)),
        AbortWith::Grpc(status) => Own {
            grpc: Some(status),
            ..Own::from(&LocalReply::fault_abort(200))
        },
    })
}

/// Where a route sends a request, or its reply.
fn way<'a>(
    session: &Session,
    allowed: &'a Allowed,
    asking: &Asking,
    request: &Request<MessageBody>,
) -> Result<&'a Target, Box<Own>> {
    if let Some((reply, reason)) = &allowed.denied {
        session.client.deny(reason.clone(), Some(&asking.authority));
        return Err(Box::new(reply.into()));
    }
    match &allowed.act.action {
        HttpAction::Forward(to) => Ok(to),
        HttpAction::Redirect(redirect) => {
            let Some(location) = location(redirect, session, allowed, asking, request) else {
                let reason = DenialReason::NotCarriedOut("the redirect leads to no URL".into());
                session.client.deny(reason, Some(&asking.authority));
                return Err(Box::new((&LocalReply::bad_request()).into()));
            };
            Err(Box::new(Own {
                headers: HeaderMap::from_iter([(LOCATION, location)]),
                ..Own::empty(redirect.status)
            }))
        }
        HttpAction::Direct(response) => Err(Box::new(Own {
            body: Bytes::from_owner(Body(Arc::clone(response))),
            headers: location_of(response.status, session, allowed, asking, request),
            ..Own::empty(response.status)
        })),
    }
}

/// Envoy gives a `location` to fixed replies of some statuses: the URL of the request.
fn location_of(
    status: u16,
    session: &Session,
    allowed: &Allowed,
    asking: &Asking,
    request: &Request<MessageBody>,
) -> HeaderMap {
    if !matches!(status, 201 | 300..400) {
        return HeaderMap::new();
    }
    let location = location(&Redirect::default(), session, allowed, asking, request);
    HeaderMap::from_iter(location.map(|location| (LOCATION, location)))
}

/// Where a redirect of a request leads, if it is a URL.
fn location(
    redirect: &Redirect,
    session: &Session,
    allowed: &Allowed,
    asking: &Asking,
    request: &Request<MessageBody>,
) -> Option<HeaderValue> {
    let head = RequestHead::of(request, &asking.authority);
    let from = RedirectedFrom {
        scheme: head.scheme(),
        authority: head.authority,
        target: head.path,
        port: session.client.origin.destination.port(),
        spec: &allowed.act.spec,
    };
    HeaderValue::from_str(&redirect.location(&from)).ok()
}

/// The body of a fixed reply, which all requests of a route share.
struct Body(Arc<DirectResponse>);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.0.body
    }
}
