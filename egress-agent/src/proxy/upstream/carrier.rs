//! What carries one request to an endpoint and its response back: an HTTP/1.1 connection, or a stream of an HTTP/2
//! connection.
//!
//! Which of the two a cluster gets is decided by its rules (`egress_core::traffic::UpstreamProtocol`).

use super::http2::{Duplex, Lease};
use super::pool::{Pool, Upstream};
use super::unanswered::Unanswered;
use super::usage::Permit;
use super::workload::Load;
use crate::proxy::client::Client;
use crate::proxy::message_body::{BodyError, MessageBody, broke_protocol};
use bytes::Bytes;
use egress_core::http::hop_by_hop::proxy_connection_closes;
use egress_core::http::upstream_reset::UpstreamReset;
use hyper::body::Body;
use hyper::ext::on_informational;
use hyper::{HeaderMap, Request, Response, StatusCode};
use std::net::SocketAddr;

/// See the module. Dropping it closes the connection, or resets the stream.
pub(in crate::proxy) enum Carrier<B> {
    Http1(Upstream<B>),
    Http2(Lease),
}

impl<B> Carrier<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Send + Unpin + 'static,
{
    /// Sends a request and waits for the head of its response. `interim` gets 1xx responses.
    pub(in crate::proxy) async fn ask(
        &mut self,
        mut request: Request<B>,
        interim: impl Fn(StatusCode, &HeaderMap) + Send + Sync + 'static,
    ) -> Result<Response<MessageBody>, Unanswered<B>> {
        match self {
            Self::Http1(upstream) => {
                on_informational(&mut request, move |early| {
                    interim(early.status(), early.headers());
                });
                upstream.expect_response();
                match upstream.send.try_send_request(request).await {
                    Ok(response) => {
                        // The HTTP library reads `connection` only.
                        if proxy_connection_closes(response.headers()) {
                            upstream.held.finish();
                        }
                        Ok(response.map(MessageBody::Http1))
                    }
                    Err(mut failed) => {
                        let unsent = failed.take_message();
                        let reset = reset_of(&failed.into_error());
                        Err(Unanswered { unsent, reset })
                    }
                }
            }
            Self::Http2(lease) => lease.ask(request, interim).await,
        }
    }

    /// Where the connection leads.
    pub(in crate::proxy) fn address(&self) -> SocketAddr {
        match self {
            Self::Http1(upstream) => upstream.address,
            Self::Http2(lease) => lease.address,
        }
    }

    /// The proxy's address, if the connection was made while the access log was on.
    pub(in crate::proxy) fn local(&self) -> Option<SocketAddr> {
        match self {
            Self::Http1(upstream) => upstream.held.local,
            Self::Http2(lease) => lease.local(),
        }
    }

    /// A request begins, which counts as these.
    pub(in crate::proxy) fn begin(&mut self, permit: Option<Permit>, load: Option<Load>) {
        match self {
            Self::Http1(upstream) => upstream.held.request(permit, load),
            Self::Http2(lease) => lease.begin(permit, load),
        }
    }

    /// The two directions of a stream that has become a websocket; `body` is that of its response.
    pub(in crate::proxy) fn take_duplex(&mut self, body: MessageBody) -> Option<Duplex> {
        match (self, body) {
            (Self::Http2(lease), MessageBody::Http2(body)) => lease.take_duplex(body),
            _ => None,
        }
    }

    /// Reads a long response in larger parts, if the workload has memory to spare.
    pub(in crate::proxy) fn widen(&mut self, client: &Client) {
        if let Self::Http1(upstream) = self {
            upstream.widen(client);
        }
    }

    /// After a whole exchange: keeps a connection that only this request used.
    pub(in crate::proxy) fn keep(self, pool: &Pool<B>, client: &Client) {
        if let Self::Http1(upstream) = self {
            pool.put(client, upstream);
        }
    }
}

/// How an HTTP/1.1 connection was lost.
pub(in crate::proxy) fn reset_of(error: &hyper::Error) -> UpstreamReset {
    if broke_protocol(error) {
        UpstreamReset::ProtocolError
    } else {
        UpstreamReset::Termination
    }
}
