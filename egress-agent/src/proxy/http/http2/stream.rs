//! One stream of a client: its request from the head to the end of the response.
//!
//! `judge` decides whether it is allowed; `act` carries out its route.

use super::super::act::{act, judged};
use super::super::asking::{Asking, KeptBack, receive};
use super::super::interim::{Interim, InterimResponse};
use super::super::judge::Judge;
use super::super::local::local_response;
use super::super::reply_body::ReplyBody;
use super::super::request_body::RequestEnd;
use super::super::session::Session;
use super::room::StreamRoom;
use super::send::{send, send_interim};
use crate::proxy::message_body::{MessageBody, StreamBody};
use crate::proxy::places::Place;
use crate::proxy::ticket::Ticket;
use bytes::Bytes;
use egress_core::http::head_error::HeadError;
use egress_core::http::local_reply::is_grpc;
use egress_core::http::repeated::join_request;
use egress_core::http::resets::PREMATURE;
use egress_core::http::response_flags::ResponseFlag;
use egress_core::http::stream_head::read_stream_head;
use egress_core::http::target::TargetError;
use egress_core::routing::HttpDenial;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response};
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What a client gets: a response, or the reset of its stream.
type Answer = Result<Response<ReplyBody>, Reason>;

/// A stream that is over.
pub(super) struct Served {
    /// The memory that it holds until its last bytes are on the wire.
    pub(super) place: Option<Place>,
    /// The client gave it up soon, before it got a response.
    pub(super) is_premature: bool,
}

/// Serves one stream until the library has its whole response. Dropping the stream resets it.
pub(super) async fn serve(
    session: Arc<Session>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    room: StreamRoom,
) -> Served {
    let judge = Judge::new(session.client.clone());
    let begun = Instant::now();
    let (mut place, mut is_premature) = (None, false);
    let serving = async {
        let (interim, mut heard) = Interim::http2();
        let answering = answer(&session, &judge, request, interim, room, &mut place);
        let answer = answered(&mut respond, &mut heard, answering).await;
        is_premature = answer.is_err() && begun.elapsed() < PREMATURE;
        match answer? {
            Ok(response) => send(respond, response).await,
            Err(reason) => {
                respond.send_reset(reason);
                Ok(())
            }
        }
    };
    tokio::select! {
        served = serving => {
            if let Err(error) = served {
                tracing::debug!(target: "egress::proxy", %error, "a stream ended early");
            }
        }
        () = judge.removed(|| true) => {}
    }
    Served {
        place,
        is_premature,
    }
}

/// Waits for the answer, and passes 1xx responses on before it. An error if the client gives the stream up.
async fn answered(
    respond: &mut SendResponse<Bytes>,
    heard: &mut mpsc::Receiver<InterimResponse>,
    answering: impl Future<Output = Answer>,
) -> Result<Answer, h2::Error> {
    let mut answering = pin!(answering);
    loop {
        tokio::select! {
            biased;
            Some((status, headers)) = heard.recv() => send_interim(respond, status, headers)?,
            answer = &mut answering => {
                // Both may have come with one read.
                if let Ok((status, headers)) = heard.try_recv() {
                    send_interim(respond, status, headers)?;
                }
                return Ok(answer);
            }
            reason = poll_fn(|cx| respond.poll_reset(cx)) => return Err(reason?.into()),
        }
    }
}

async fn answer(
    session: &Session,
    judge: &Judge,
    request: Request<RecvStream>,
    interim: Interim,
    room: StreamRoom,
    place: &mut Option<Place>,
) -> Answer {
    let mut ticket = session.ticket();
    let (mut parts, body) = request.into_parts();
    join_request(&mut parts.headers);
    ticket.record.method = parts.method.to_string();
    let content_type = parts.headers.get(CONTENT_TYPE);
    ticket.grpc = content_type.is_some_and(|value| is_grpc(value.as_bytes()));
    let mut head = read_stream_head(&mut parts, session.client.shared.limits.head);
    let expect = head.as_mut().ok().and_then(|head| head.expect.take());
    let is_path = parts.uri.path() != "*";
    let kept = KeptBack {
        expect,
        ..KeptBack::default()
    };
    receive(&mut parts.headers, kept, is_path);
    ticket.asked(&parts.headers);
    let path = parts.uri.path_and_query();
    ticket.record.path = path.map_or_else(String::new, ToString::to_string);
    let head = match head {
        Ok(head) => head,
        // Extended CONNECT (RFC 8441) was not offered.
        Err(error) if parts.extensions.get::<Protocol>().is_some() => {
            return reset(session, &error, Reason::PROTOCOL_ERROR, ticket);
        }
        Err(error) => return reject(session, &error, ticket),
    };
    ticket.record.host.clone_from(&head.authority);
    *place = room.taken().await;
    if place.is_none() {
        return reject(session, &HeadError::NoRoom, ticket);
    }
    let length = parts.headers.get(CONTENT_LENGTH).and_then(length_of);
    let body = MessageBody::Http2(StreamBody::new(body, length));
    let request = Request::from_parts(parts, body);
    Ok(
        match judged(judge, &request, &head.authority, &mut ticket).await {
            Ok(allowed) => {
                let asking = Asking {
                    authority: head.authority,
                    interim,
                };
                let end = Arc::new(RequestEnd::default());
                act(session, &allowed, &asking, request, end, ticket).await
            }
            Err(denial) => {
                let HttpDenial { reply, reason, .. } = *denial;
                session.client.deny(reason, Some(&head.authority));
                local_response(&reply, ticket)
            }
        },
    )
}

/// The library has checked it.
fn length_of(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

/// Answers a head that is not judged as Envoy does.
fn reject(session: &Session, error: &HeadError, ticket: Ticket) -> Answer {
    match error {
        HeadError::Connect
        | HeadError::NoRoom
        | HeadError::QueryType
        | HeadError::Target(TargetError::Nul) => {
            session.client.deny(error.reason(), None);
            Ok(local_response(&error.reply(), ticket))
        }
        HeadError::TooLarge | HeadError::TooManyHeaders => {
            reset(session, error, Reason::INTERNAL_ERROR, ticket)
        }
        HeadError::Malformed(_)
        | HeadError::Method
        | HeadError::Version
        | HeadError::Target(_)
        | HeadError::TransferEncoding
        | HeadError::ContentLength
        | HeadError::FramedTwice
        | HeadError::NoHost
        | HeadError::Connection
        | HeadError::BadHost => reset(session, error, Reason::PROTOCOL_ERROR, ticket),
    }
}

fn reset(session: &Session, error: &HeadError, reason: Reason, mut ticket: Ticket) -> Answer {
    session.client.deny(error.reason(), None);
    ticket.flag(ResponseFlag::DPE);
    Err(reason)
}
