//! Sends a response on a stream, no faster than its client reads.
//!
//! It makes no response.

use super::super::reply_body::{ReplyBody, ReplyError};
use crate::proxy::stream_send::send_data;
use bytes::Bytes;
use egress_core::http::response_head::prepare_interim;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use hyper::body::Frame;
use hyper::header::{CONNECTION, CONTENT_LENGTH, DATE, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use hyper::{HeaderMap, Response, StatusCode, Version};
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::SystemTime;

/// Sends a response whole. Returns early if the client gives the stream up.
pub(super) async fn send(
    mut respond: SendResponse<Bytes>,
    response: Response<ReplyBody>,
) -> Result<(), h2::Error> {
    let (mut head, mut body) = response.into_parts();
    head.version = Version::HTTP_2;
    let is_over = body.is_over();
    // Envoy gives no length to an empty reply of its own. That of a reply to HEAD is its body's.
    let is_empty = head.headers.get(CONTENT_LENGTH).is_some_and(|l| l == "0");
    if is_empty && is_over && matches!(body, ReplyBody::Local(_)) {
        head.headers.remove(CONTENT_LENGTH);
    }
    if !head.headers.contains_key(DATE)
        && let Ok(date) = HeaderValue::from_str(&httpdate::fmt_http_date(SystemTime::now()))
    {
        head.headers.insert(DATE, date);
    }
    let mut stream = respond.send_response(Response::from_parts(head, ()), is_over)?;
    if is_over {
        return Ok(());
    }
    loop {
        match poll_fn(|cx| poll_frame(&mut body, &mut stream, cx)).await? {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let is_over = body.is_over();
                    send_data(&mut stream, data, is_over).await?;
                    if is_over {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return stream.send_trailers(trailers);
                }
            },
            Some(Err(_)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            None => return stream.send_data(Bytes::new(), true),
        }
    }
}

type NextFrame = Option<Result<Frame<Bytes>, ReplyError>>;

/// The next frame of the body, unless the client gives the stream up first.
fn poll_frame(
    body: &mut ReplyBody,
    stream: &mut SendStream<Bytes>,
    cx: &mut Context<'_>,
) -> Poll<Result<NextFrame, h2::Error>> {
    if let Poll::Ready(frame) = body.poll_frame(cx) {
        return Poll::Ready(Ok(frame));
    }
    match stream.poll_reset(cx) {
        Poll::Ready(reason) => Poll::Ready(Err(reason?.into())),
        Poll::Pending => Poll::Pending,
    }
}

/// Passes a 1xx response on.
pub(super) fn send_interim(
    respond: &mut SendResponse<Bytes>,
    status: StatusCode,
    mut headers: HeaderMap,
) -> Result<(), h2::Error> {
    prepare_interim(&mut headers);
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    // Fields of one hop, and framing that a response without a body does not have.
    for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE] {
        response.headers_mut().remove(name);
    }
    respond.send_informational(response)
}
