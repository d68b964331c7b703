//! The proxy's own replies, byte for byte as Envoy sends them, and their bytes for the layer below the HTTP library.
//!
//! It does not decide which reply a request gets.

use super::reply_body::ReplyBody;
use crate::proxy::ticket::Ticket;
use bytes::Bytes;
use egress_core::http::grpc::grpc_status;
use egress_core::http::local_reply::LocalReply;
use egress_core::http::response_flags::ResponseFlags;
use egress_core::http::response_head::CHUNKED;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::http::HeaderMap;
use hyper::{Response, StatusCode};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

/// Header lines for an HTTP/1.1 client that the library does not write: see `framing_of_no_body`.
#[derive(Clone)]
pub(super) struct FramingOfNoBody(pub(super) Vec<u8>);

/// The HTTP/1.1 connection closes after this response, as in Envoy after a reply of its own with 400.
#[derive(Clone, Copy)]
pub(super) struct Closes;

/// A reply with a status and a body, in whichever form the client reads.
pub(super) struct Own {
    pub(super) status: u16,
    pub(super) body: Bytes,
    /// Further headers.
    pub(super) headers: HeaderMap,
    /// The status for a gRPC client, if it is not the one that stands for `status`.
    pub(super) grpc: Option<u8>,
    pub(super) flags: ResponseFlags,
    /// Envoy's response code details.
    pub(super) details: Cow<'static, str>,
    /// Why no connection to the upstream was made.
    pub(super) transport: Option<Cow<'static, str>>,
}

impl Own {
    /// A rule's, without a body.
    pub(super) fn empty(status: u16) -> Self {
        Self {
            status,
            body: Bytes::new(),
            headers: HeaderMap::new(),
            grpc: None,
            flags: ResponseFlags::default(),
            details: Cow::Borrowed("direct_response"),
            transport: None,
        }
    }
}

impl From<&LocalReply> for Own {
    fn from(reply: &LocalReply) -> Self {
        Self {
            body: Bytes::from(reply.body.clone().into_owned()),
            flags: reply.flags,
            details: reply.details.clone(),
            transport: reply.transport.clone(),
            ..Self::empty(reply.status)
        }
    }
}

/// A local reply as Envoy sends it. hyper adds `date`.
pub(super) fn local_response(reply: &LocalReply, ticket: Ticket) -> Response<ReplyBody> {
    let mut response = own_response(reply.into(), ticket);
    if reply.is_overflow() {
        let overloaded = HeaderValue::from_static("true");
        response
            .headers_mut()
            .insert("x-envoy-overloaded", overloaded);
    }
    response
}

/// The same for any status and body.
pub(super) fn own_response(mut own: Own, mut ticket: Ticket) -> Response<ReplyBody> {
    let further = std::mem::take(&mut own.headers);
    ticket.record.flags = ticket.record.flags.and(own.flags);
    ticket.record.details = std::mem::take(&mut own.details);
    if own.transport.is_some() {
        ticket.record.transport_failure = own.transport.take();
    }
    let closes = own.status == 400;
    let mut response = if ticket.grpc {
        grpc_response(&own, ticket.record.method == "HEAD")
    } else {
        plain_response(own)
    };
    let headers = response.headers_mut();
    headers.extend(further);
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    let sent = response.body().local_length();
    let is_head = ticket.record.method == "HEAD";
    if is_head && sent == 0 {
        // Envoy knows no length of what it does not send.
        let lines = CHUNKED.to_vec();
        response.extensions_mut().insert(FramingOfNoBody(lines));
    } else {
        let length = HeaderValue::from(sent);
        response.headers_mut().insert(CONTENT_LENGTH, length);
    }
    if is_head {
        *response.body_mut() = ReplyBody::Local(None);
    }
    response.extensions_mut().insert(ticket.record.flags);
    if closes {
        response.extensions_mut().insert(Closes);
    }
    ticket.record.response_code = response.status().as_u16();
    ticket.answers(response.headers());
    // The length is that of the body which a GET would get.
    let sent = if is_head { 0 } else { sent };
    ticket.counters.sent.store(sent, Ordering::Relaxed);
    ticket.done();
    response
}

fn plain_response(own: Own) -> Response<ReplyBody> {
    let body = Some(own.body).filter(|body| !body.is_empty());
    let has_body = body.is_some();
    let mut response = Response::new(ReplyBody::Local(body));
    // Every status of a rule and of `LocalReply` is valid.
    *response.status_mut() = StatusCode::from_u16(own.status).unwrap_or(StatusCode::BAD_GATEWAY);
    if has_body {
        let text = HeaderValue::from_static("text/plain");
        response.headers_mut().insert(CONTENT_TYPE, text);
    }
    response
}

fn grpc_response(own: &Own, is_head: bool) -> Response<ReplyBody> {
    let status = own.grpc.unwrap_or_else(|| grpc_status(own.status));
    let message = percent_encoded(&own.body);
    let mut response = Response::new(ReplyBody::Local(None));
    let headers = response.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(CONTENT_TYPE, grpc);
    headers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    if let Ok(message) = HeaderValue::from_str(&message)
        && !message.is_empty()
        && !is_head
    {
        headers.insert("grpc-message", message);
    }
    response
}

/// A `grpc-message`: bytes outside printable ASCII, and `%`, as `%XX` (gRPC over HTTP/2, `Percent-Encoded`).
fn percent_encoded(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => {
                // Writing to a `String` cannot fail.
                let _ = write!(out, "%{byte:02X}");
            }
            _ => out.push(byte.into()),
        }
    }
    out
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_of_grpc_is_percent_encoded() {
        for (text, encoded) in [
            ("closed today", "closed today"),
            ("gr\u{fc}\u{df}e\n%", "gr%C3%BC%C3%9Fe%0A%25"),
            ("\u{7f}~", "%7F~"),
        ] {
            assert_eq!(percent_encoded(text.as_bytes()), encoded);
        }
    }
}
