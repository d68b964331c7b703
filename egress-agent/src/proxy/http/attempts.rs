//! The attempts of one request: how long each may take, which failure is tried again, and the wait before the next one.
//!
//! It changes nothing of the request but the headers that differ between attempts, and nothing of the response.
//! `supply` has their connections; `egress_core::traffic::RetryPolicy` decides which failures are tried again.

use super::attempt_head::{Head, authority};
use super::interim::Interim;
use super::lost::Lost;
use super::request_body::{RequestBody, RequestEnd, RequestSource};
use super::supply::{Supply, Taken};
use crate::proxy::message_body::MessageBody;
use crate::proxy::observe::DenialReason;
use crate::proxy::ticket::Ticket;
use crate::proxy::upstream::carrier::Carrier;
use crate::proxy::upstream::tls::Peer;
use crate::proxy::upstream::unanswered::Unanswered;
use crate::proxy::upstream::usage::Usage;
use egress_core::http::grpc::http_status;
use egress_core::http::grpc_timeout::set_call_timeout;
use egress_core::http::headers::{set_attempt, set_expected_timeout};
use egress_core::http::local_reply::LocalReply;
use egress_core::http::response_flags::ResponseFlag;
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::routing::Cluster;
use egress_core::traffic::{RetryPolicy, RoutePolicy, UpstreamProtocol};
use hyper::body::Body;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

/// An upstream whose answer has begun.
pub(super) struct Answered {
    pub(super) response: Response<MessageBody>,
    pub(super) upstream: Carrier<RequestBody>,
}

/// What the attempts of a request have in common.
pub(super) struct Attempts<'a> {
    pub(super) supply: Supply<'a>,
    pub(super) policy: &'a RoutePolicy,
    /// The route's, or as its header operations change them.
    pub(super) retries: &'a RetryPolicy,
    /// It is a gRPC call.
    pub(super) call: bool,
    /// The request may be sent again after it was sent whole. Otherwise nothing of it is kept.
    pub(super) repeats: bool,
    pub(super) interim: &'a Interim,
    pub(super) body: RequestSource,
    pub(super) end: Arc<RequestEnd>,
    /// The endpoint that has the request and has not answered yet.
    pub(super) asked: Option<SocketAddr>,
}

impl Attempts<'_> {
    /// Sends the request until an attempt's response goes to the client. `Err` is the reply instead of one.
    pub(super) async fn send(
        &mut self,
        parts: Parts,
        ticket: &mut Ticket,
    ) -> Result<Answered, LocalReply> {
        let policy = self.retries;
        let host = authority(&parts).to_owned();
        let mut peer = peer_of(&self.supply.cluster, &host);
        let mut head = Head::new(parts);
        let mut retry = 0;
        let mut tried = Vec::new();
        // Of the last retry, until the next one or the response.
        let mut _counted = None;
        loop {
            match self.supply.judged_again() {
                Ok(()) => {}
                Err(Lost::Moved(now)) => peer = self.moved(now, &host)?,
                Err(lost) => return Err(lost.reply(retry > 0, ticket.record.flags)),
            }
            let is_last = retry == policy.attempts;
            let avoid = policy.avoid_previous;
            let Some(address) = self.supply.address(retry as usize, &tried, avoid) else {
                return Err(self.no_endpoint());
            };
            let to = (address, peer.as_ref());
            let spends = is_last || !self.repeats;
            let attempt = self.attempt(&mut head, spends, to, ticket).await;
            if let Err(Lost::Moved(now)) = attempt {
                ticket.record.attempts -= 1;
                peer = self.moved(now, &host)?;
                continue;
            }
            let address = ticket.record.upstream.unwrap_or(address);
            self.supply.note(address, self.status_of(&attempt));
            _counted = None;
            let again = match &attempt {
                Ok(Answered { response, .. }) => {
                    policy.after_response(response.status().as_u16(), response.headers())
                }
                Err(Lost::Reset { reset, started }) => policy.after_reset(reset, *started),
                Err(Lost::Timeout) => policy.after_timeout(),
                Err(Lost::Removed | Lost::Moved(_)) => false,
            };
            // As in Envoy, a request whose 1xx response went to the client is not tried again.
            let again = again && !self.interim.has_passed();
            // What was sent and not kept cannot be sent again.
            let kept = (is_last || head.is_kept()) && self.body.is_whole();
            let again = again && policy.attempts > 0 && kept;
            if again && is_last {
                ticket.record.flags = ticket.record.flags.with(ResponseFlag::URX);
            }
            if !again || is_last {
                return attempt.map_err(|lost| self.reply(&lost, retry, ticket));
            }
            let Ok(permit) = self.supply.count(Usage::retry) else {
                ticket.record.flags = ticket.record.flags.with(ResponseFlag::UO);
                return attempt.map_err(|lost| self.reply(&lost, retry, ticket));
            };
            _counted = permit;
            if let Ok(answered) = attempt {
                self.give_up(answered, ticket);
            }
            tried.push(address);
            let random = Uuid::new_v4().as_u64_pair().0;
            tokio::select! {
                () = sleep(policy.back_off(retry, random)) => {}
                never = self.body.read_ahead() => match never {},
            }
            self.supply.waited = true;
            if let Some(elapsed) = self.end.at().map(|at| at.elapsed())
                && let Some(expected) = self.policy.expected_timeout(elapsed)
            {
                head.change(|headers| {
                    set_expected_timeout(headers, expected);
                    if self.call {
                        set_call_timeout(headers, expected);
                    }
                });
            }
            retry += 1;
        }
    }

    /// The reply to a request that is not tried again.
    fn reply(&self, lost: &Lost, retry: u32, ticket: &Ticket) -> LocalReply {
        let reply = lost.reply(retry > 0, ticket.record.flags);
        if self.interim.has_passed() {
            reply.after_interim()
        } else {
            reply
        }
    }

    /// Goes on with another state of the destination. Returns its peer.
    fn moved(&mut self, now: Arc<Cluster>, host: &str) -> Result<Option<Peer>, LocalReply> {
        let peer = peer_of(&now, host);
        if self.supply.change(now) {
            Ok(peer)
        } else {
            Err(self.no_endpoint())
        }
    }

    fn no_endpoint(&self) -> LocalReply {
        self.supply.deny(DenialReason::NoEndpoint);
        LocalReply::no_healthy_upstream()
    }

    /// The status that counts for the endpoint. As in Envoy, it is that of gRPC if the head of the response to a call has
    /// one.
    fn status_of<'l>(&self, attempt: &'l Result<Answered, Lost>) -> Result<u16, &'l Lost> {
        let response = &attempt.as_ref()?.response;
        let grpc = response.headers().get("grpc-status").filter(|_| self.call);
        let grpc = grpc.and_then(|status| http_status(status.as_bytes()));
        Ok(grpc.unwrap_or(response.status().as_u16()))
    }

    /// The route's timeout passed. As in Envoy, it counts against an endpoint only if that had the request.
    pub(super) fn late(&self) {
        if let Some(address) = self.asked {
            self.supply.note(address, Err(&Lost::Timeout));
        }
    }

    /// One attempt, which `spends` the head when it sends the request. If the origin closed a kept connection before any
    /// byte of the response, it is replaced, provided that the request was not sent or may be sent twice.
    async fn attempt(
        &mut self,
        head: &mut Head,
        spends: bool,
        (address, peer): (SocketAddr, Option<&Peer>),
        ticket: &mut Ticket,
    ) -> Result<Answered, Lost> {
        count(head, address, ticket);
        let taken = tokio::select! {
            biased;
            taken = self.supply.take(address, peer) => taken?,
            never = self.body.read_ahead() => match never {},
        };
        let right = match taken {
            Taken::New(right) => right,
            Taken::Kept(mut upstream) => {
                let repeatable = self.body.is_empty() && head.is_idempotent();
                let at = upstream.address();
                ticket.record.upstream = Some(at);
                self.supply.begin(&mut upstream, at, ticket)?;
                let request = self.request(head, spends && !repeatable)?;
                match self.ask(at, &mut upstream, request).await? {
                    Ok(response) => return Ok(Answered { response, upstream }),
                    Err(Unanswered { unsent, reset }) => match unsent.map(Request::into_parts) {
                        Some((parts, _)) => *head = Head::new(parts),
                        None if repeatable && reset == UpstreamReset::Termination => {}
                        None => return Err(Lost::after(reset)),
                    },
                }
                let right = self.supply.replace(&upstream, address, peer);
                count(head, address, ticket);
                right
            }
        };
        let (mut upstream, address) = tokio::select! {
            biased;
            connected = Box::pin(self.supply.connect(address, peer, right)) => connected?,
            never = self.body.read_ahead() => match never {},
        };
        ticket.record.upstream = Some(address);
        self.supply.begin(&mut upstream, address, ticket)?;
        let request = self.request(head, spends)?;
        match self.ask(address, &mut upstream, request).await? {
            Ok(response) => Ok(Answered { response, upstream }),
            Err(Unanswered { reset, .. }) => Err(Lost::after(reset)),
        }
    }

    /// The request of an attempt. It `spends` the head if no further attempt needs it.
    fn request(&self, head: &mut Head, spends: bool) -> Result<Request<RequestBody>, Lost> {
        // Both are there, because `send` makes no further attempt without them.
        let (parts, body) = head.next(spends).zip(self.body.body()).ok_or(Lost::LOCAL)?;
        Ok(Request::from_parts(parts, body))
    }

    /// Sends a request and waits for the head of the response. `Err` if the attempt's own time limit passes before.
    async fn ask(
        &mut self,
        address: SocketAddr,
        upstream: &mut Carrier<RequestBody>,
        request: Request<RequestBody>,
    ) -> Result<Result<Response<MessageBody>, Unanswered<RequestBody>>, Lost> {
        self.asked = Some(address);
        let asking = upstream.ask(request, self.interim.clone().passing());
        let answer = if let Some(limit) = self.policy.per_try_timeout() {
            let connected = Instant::now();
            let passed = async {
                let from = self.end.wait().await.max(connected);
                sleep_until(from + limit).await;
            };
            tokio::select! {
                biased;
                answer = asking => Ok(answer),
                () = passed => Err(Lost::Timeout),
            }
        } else {
            Ok(asking.await)
        };
        self.asked = None;
        answer
    }

    /// Keeps the connection of a response that does not go to the client, if it is between two requests.
    fn give_up(&self, answered: Answered, ticket: &Ticket) {
        let Answered { response, upstream } = answered;
        if response.body().is_end_stream() && self.end.at().is_some() {
            upstream.keep(&self.supply.session.pool, ticket.client());
        }
    }
}

/// Counts an attempt at an address.
fn count(head: &mut Head, address: SocketAddr, ticket: &mut Ticket) {
    ticket.record.attempts += 1;
    (ticket.record.upstream, ticket.record.upstream_local) = (Some(address), None);
    let attempts = ticket.record.attempts;
    if attempts > 1 {
        head.change(|headers| set_attempt(headers, attempts));
    }
}

/// The peer of TLS towards a cluster, if its rules ask for it.
fn peer_of(cluster: &Cluster, host: &str) -> Option<Peer> {
    let http2 = cluster.protocol == UpstreamProtocol::Http2;
    let tls = cluster.policy.tls.as_ref();
    tls.map(|tls| Peer::of_request(tls, host, http2))
}
