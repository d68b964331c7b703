//! The attempts of one request: each on a kept connection or a new one.
//!
//! It changes nothing of the request but the number of the attempt, and nothing of the response.

use super::interim::Interim;
use super::message_body::{MessageBody, broke_protocol};
use super::request_body::RequestBody;
use super::session::Session;
use crate::proxy::ticket::Ticket;
use crate::proxy::upstream::connect::connect_any;
use crate::proxy::upstream::pool::Upstream;
use egress_core::http::headers::set_attempt;
use egress_core::http::local_reply::LocalReply;
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::routing::Cluster;
use hyper::body::Body;
use hyper::ext::on_informational;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;

/// An upstream whose answer has begun.
pub(super) struct Answered {
    pub(super) response: Response<MessageBody>,
    pub(super) upstream: Upstream<RequestBody>,
}

/// Sends on a kept connection or a new one. If the origin closed a kept one before any byte of the response, it is
/// replaced once, provided that the request was not sent or may be sent twice.
pub(super) async fn send(
    session: &Session,
    cluster: &Arc<Cluster>,
    order: &[SocketAddr],
    mut parts: Parts,
    mut body: RequestBody,
    interim: &Interim,
    ticket: &mut Ticket,
) -> Result<Answered, LocalReply> {
    if let Some(mut upstream) = session.pool.take(cluster, order[0]).await {
        ticket.record.attempts += 1;
        ticket.record.upstream = Some(upstream.address);
        set_attempt(&mut parts.headers, ticket.record.attempts);
        let replay = replayable(&parts, &body).then(|| (clone_of(&parts), body.replay()));
        upstream.expect_response();
        let request = passing_interim(interim, Request::from_parts(parts, body));
        match upstream.send.try_send_request(request).await {
            Ok(response) => {
                let response = response.map(MessageBody::Http1);
                return Ok(Answered { response, upstream });
            }
            Err(mut failed) => {
                let unsent = failed.take_message().map(Request::into_parts);
                let error = failed.into_error();
                (parts, body) = unsent
                    .or(replay.filter(|_| !broke_protocol(&error)))
                    .ok_or_else(|| reply_to(&error, false))?;
            }
        }
    }
    let tries_before = ticket.record.attempts;
    let stream = tokio::select! {
        biased;
        stream = connect_any(&session.client, order, &mut ticket.record) => stream,
        never = body.read_ahead() => match never {},
    };
    let retried = ticket.record.attempts > tries_before + 1;
    let (stream, place) = stream.map_err(|reset| LocalReply::upstream_reset(&reset, retried))?;
    set_attempt(&mut parts.headers, ticket.record.attempts);
    let address = ticket.record.upstream.unwrap_or(order[0]);
    let mut upstream = Upstream::new(stream, place, address, Arc::clone(cluster))
        .await
        .map_err(|error| reply_to(&error, retried))?;
    let request = passing_interim(interim, Request::from_parts(parts, body));
    match upstream.send.send_request(request).await {
        Ok(response) => Ok(Answered {
            response: response.map(MessageBody::Http1),
            upstream,
        }),
        Err(error) => Err(reply_to(&error, retried)),
    }
}

/// Forwards the origin's 1xx responses to the client.
fn passing_interim(interim: &Interim, mut request: Request<RequestBody>) -> Request<RequestBody> {
    let interim = interim.clone();
    on_informational(&mut request, move |response| {
        interim.pass(response.status(), response.headers());
    });
    request
}

/// The reply to the client if the upstream was lost before its response began.
fn reply_to(error: &hyper::Error, retried: bool) -> LocalReply {
    let reset = if broke_protocol(error) {
        UpstreamReset::ProtocolError
    } else {
        UpstreamReset::Termination
    };
    LocalReply::upstream_reset(&reset, retried)
}

/// Without a body and of a method that may be sent twice (RFC 9110 §9.2.2).
fn replayable(parts: &Parts, body: &RequestBody) -> bool {
    body.is_end_stream() && parts.method.is_idempotent()
}

/// The head of a request, without its extensions.
fn clone_of(parts: &Parts) -> Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = parts.method.clone();
    copy.uri = parts.uri.clone();
    copy.version = parts.version;
    copy.headers = parts.headers.clone();
    copy
}
