//! One stream of an HTTP/2 connection: a request and its response.
//!
//! It makes no connection.

use super::connection::Connection;
use super::duplex::Duplex;
use super::open::State;
use crate::lock::lock;
use crate::proxy::field_room::StreamLists;
use crate::proxy::message_body::{BodyError, MessageBody, StreamBody};
use crate::proxy::stream_send::send_data;
use crate::proxy::ticket::OwnedTask;
use crate::proxy::upstream::unanswered::Unanswered;
use crate::proxy::upstream::usage::Permit;
use crate::proxy::upstream::workload::Load;
use bytes::Bytes;
use egress_core::http::upstream_reset::UpstreamReset;
use h2::ext::Protocol;
use h2::{Reason, SendStream};
use hyper::body::Body;
use hyper::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use hyper::http::uri::{Parts as UriParts, Scheme, Uri};
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;

/// See the module. Dropping it resets the stream, unless it is over.
pub(in crate::proxy) struct Lease {
    of: Arc<Connection>,
    /// Where the connection leads.
    pub(in crate::proxy) address: SocketAddr,
    /// The connections among which it is idle after this stream.
    among: Weak<Mutex<State>>,
    /// Sends the body of the request.
    body: Option<OwnedTask>,
    /// Of an extended CONNECT: the direction to the upstream.
    tunnel: Option<SendStream<Bytes>>,
    /// What the request counts as.
    counted: (Option<Permit>, Option<Load>),
    lists: Option<StreamLists>,
}

impl Lease {
    /// A stream of this connection, if it takes one more.
    pub(super) fn of(
        connection: &Arc<Connection>,
        address: SocketAddr,
        among: &Arc<Mutex<State>>,
    ) -> Option<Self> {
        connection.begin().then(|| Self {
            of: Arc::clone(connection),
            address,
            among: Arc::downgrade(among),
            body: None,
            tunnel: None,
            counted: (None, None),
            lists: None,
        })
    }

    /// The proxy's address, if it is known.
    pub(in crate::proxy) fn local(&self) -> Option<SocketAddr> {
        self.of.local()
    }

    /// The request counts as these until it is over.
    pub(in crate::proxy) fn begin(&mut self, permit: Option<Permit>, load: Option<Load>) {
        self.counted = (permit, load);
    }

    /// Sends a request and waits for the head of its response. The body goes on by itself. `interim` gets 1xx responses.
    pub(in crate::proxy) async fn ask<B>(
        &mut self,
        request: Request<B>,
        mut interim: impl FnMut(StatusCode, &HeaderMap),
    ) -> Result<Response<MessageBody>, Unanswered<B>>
    where
        B: Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static,
    {
        let mut send = self.of.send.clone();
        if let Err(error) = poll_fn(|cx| send.poll_ready(cx)).await {
            return Err(Unanswered::unsent(request, self.lost(&error)));
        }
        let Some(head) = head_of(request.headers(), &request) else {
            return Err(Unanswered::sent(UpstreamReset::ProtocolError));
        };
        let is_tunnel = head.method() == Method::CONNECT;
        let is_over = !is_tunnel && request.body().is_end_stream();
        let (mut response, stream) = match send.send_request(head, is_over) {
            Ok(both) => both,
            Err(error) => return Err(Unanswered::unsent(request, self.lost(&error))),
        };
        self.lists = Some(self.of.lists(stream.stream_id()));
        if is_tunnel {
            self.tunnel = Some(stream);
        } else if !is_over {
            let sending = send_body(stream, request.into_body());
            self.body = Some(OwnedTask(tokio::spawn(sending)));
        }
        let answer = poll_fn(|cx| {
            while let Poll::Ready(Some(Ok(early))) = response.poll_informational(cx) {
                interim(early.status(), early.headers());
            }
            Pin::new(&mut response).poll(cx)
        });
        let mut response = answer
            .await
            .map_err(|error| Unanswered::sent(self.lost(&error)))?;
        if is_tunnel && response.status().is_success() {
            switch(&mut response);
        }
        let length = response.headers().get(CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(response.map(|body| MessageBody::Http2(StreamBody::new(body, length))))
    }

    /// Both directions of a websocket; `body` is that of its response.
    pub(in crate::proxy) fn take_duplex(&mut self, body: StreamBody) -> Option<Duplex> {
        Some(Duplex::new(self.tunnel.take()?, body))
    }

    /// How the upstream was lost. A connection that is lost or gone away takes no further streams.
    fn lost(&self, error: &h2::Error) -> UpstreamReset {
        if !error.is_reset() {
            self.of.close();
        }
        reset_of(error)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.of.end()
            && let Some(among) = self.among.upgrade()
        {
            lock(&among).rested(&self.of);
        }
    }
}

/// Turns the response to an extended CONNECT into that to an upgrade (Envoy `transformUpgradeResponseFromH2toH1`).
fn switch<B>(response: &mut Response<B>) {
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
}

/// The head of a stream (RFC 9113 §8.3.1): Host becomes `:authority`. Fields of one hop are left out (§8.2.2). An upgrade
/// becomes an extended CONNECT (RFC 8441 §5), whether or not the upstream says that it takes one, as in Envoy. `None` if
/// it cannot be a head.
fn head_of<B>(headers: &HeaderMap, request: &Request<B>) -> Option<Request<()>> {
    let (mut head, ()) = Request::new(()).into_parts();
    let mut uri = UriParts::default();
    uri.scheme = Some(Scheme::HTTP);
    let host = headers.get(HOST).map(HeaderValue::as_bytes);
    uri.authority = Some(host?.try_into().ok()?);
    uri.path_and_query = request.uri().path_and_query().cloned();
    head.method = request.method().clone();
    if let Some(protocol) = headers.get(UPGRADE) {
        head.method = Method::CONNECT;
        let protocol = protocol.to_str().ok()?.to_ascii_lowercase();
        head.extensions.insert(Protocol::from(protocol.as_str()));
    }
    head.uri = Uri::from_parts(uri).ok()?;
    head.version = Version::HTTP_2;
    head.headers = headers.clone();
    for name in [HOST, CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        head.headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        head.headers.remove(name);
    }
    // Over HTTP/2 it may only say `trailers` (RFC 9113 §8.2.2).
    if head.headers.get(TE).is_some_and(HeaderValue::is_empty) {
        head.headers.remove(TE);
    }
    Some(Request::from_parts(head, ()))
}

/// Sends the body of a request.
async fn send_body<B>(mut stream: SendStream<Bytes>, mut body: B)
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    loop {
        let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await else {
            // The stream was reset: its response says so.
            let _ = stream.send_data(Bytes::new(), true);
            return;
        };
        let Ok(frame) = frame else {
            return stream.send_reset(Reason::CANCEL);
        };
        match frame.into_data() {
            Ok(data) => {
                let is_over = body.is_end_stream();
                if send_data(&mut stream, data, is_over).await.is_err() || is_over {
                    return;
                }
            }
            Err(frame) => {
                let _ = stream.send_trailers(frame.into_trailers().unwrap_or_default());
                return;
            }
        }
    }
}

/// How the upstream was lost.
pub(super) fn reset_of(error: &h2::Error) -> UpstreamReset {
    match error.reason() {
        Some(Reason::REFUSED_STREAM) if error.is_remote() => UpstreamReset::RemoteRefused,
        // A stream beyond the last one that the upstream serves (RFC 9113 §6.8).
        Some(Reason::NO_ERROR) if error.is_go_away() && error.is_remote() => {
            UpstreamReset::RemoteRefused
        }
        Some(_) if error.is_library() => UpstreamReset::ProtocolError,
        Some(_) if error.is_reset() => UpstreamReset::RemoteReset,
        _ => UpstreamReset::Termination,
    }
}
