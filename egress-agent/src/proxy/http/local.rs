//! The proxy's own replies, byte for byte as Envoy sends them, and their bytes for the layer below the HTTP library.
//!
//! It does not decide which reply a request gets.

use super::reply_body::ReplyBody;
use crate::proxy::ticket::Ticket;
use bytes::Bytes;
use egress_core::http::local_reply::LocalReply;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::{Response, StatusCode};
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// A local reply as Envoy sends it. hyper adds `date`.
pub(super) fn local_response(reply: &LocalReply, mut ticket: Ticket) -> Response<ReplyBody> {
    let mut response = if ticket.grpc {
        grpc_response(reply)
    } else {
        plain_response(reply)
    };
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    let sent = response.body().local_length();
    let length = HeaderValue::from(sent);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    ticket.record.response_code = response.status().as_u16();
    ticket.record.flags = reply.flags;
    ticket.counters.sent.store(sent, Ordering::Relaxed);
    ticket.done();
    response
}

fn plain_response(reply: &LocalReply) -> Response<ReplyBody> {
    let body = Some(Bytes::from(reply.body.clone().into_owned())).filter(|body| !body.is_empty());
    let mut response = Response::new(ReplyBody::Local(body));
    // Every status of `LocalReply` is valid.
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::BAD_GATEWAY);
    if !reply.body.is_empty() {
        let text = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(CONTENT_TYPE, text);
    }
    response
}

fn grpc_response(reply: &LocalReply) -> Response<ReplyBody> {
    let (status, message) = reply.in_grpc();
    let mut response = Response::new(ReplyBody::Local(None));
    let headers = response.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(CONTENT_TYPE, grpc);
    headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::from_str(&message)
        && !message.is_empty()
    {
        headers.insert("grpc-message", message);
    }
    response
}

/// A reply after which the connection closes, as Envoy sends it.
pub(in crate::proxy) fn closing_reply(reply: &LocalReply) -> Vec<u8> {
    let status = StatusCode::from_u16(reply.status);
    let reason = status.ok().and_then(|status| status.canonical_reason());
    let kind = if reply.body.is_empty() {
        ""
    } else {
        "content-type: text/plain\r\n"
    };
    format!(
        "HTTP/1.1 {} {}\r\ncontent-length: {}\r\n{kind}date: {}\r\nserver: envoy\r\nconnection: close\r\n\r\n{}",
        reply.status,
        reason.unwrap_or_default(),
        reply.body.len(),
        httpdate::fmt_http_date(SystemTime::now()),
        reply.body,
    )
    .into_bytes()
}
