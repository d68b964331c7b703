//! The attempts of one request, each on a kept connection or a new one: which endpoint is next, how long an attempt may
//! take, and the wait before the next one.
//!
//! It changes nothing of the request but the headers that differ between attempts, and nothing of the response.
//! `egress_core::traffic::RetryPolicy` decides which failures are tried again.

use super::attempt_head::{Head, authority};
use super::interim::Interim;
use super::request_body::{RequestBody, RequestEnd, RequestSource};
use super::session::Session;
use crate::proxy::message_body::MessageBody;
use crate::proxy::observe::DenialReason;
use crate::proxy::ticket::Ticket;
use crate::proxy::upstream::carrier::{Carrier, reset_of};
use crate::proxy::upstream::connect::connect;
use crate::proxy::upstream::held::Held;
use crate::proxy::upstream::http2::Making;
use crate::proxy::upstream::pool::Upstream;
use crate::proxy::upstream::tls::Peer;
use crate::proxy::upstream::unanswered::Unanswered;
use crate::proxy::upstream::usage::{Overflow, Permit, Usage};
use crate::proxy::upstream::workload::Workload;
use egress_core::http::grpc_timeout::set_call_timeout;
use egress_core::http::headers::{set_attempt, set_expected_timeout};
use egress_core::http::local_reply::LocalReply;
use egress_core::http::response_flags::{ResponseFlag, ResponseFlags};
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::routing::Cluster;
use egress_core::traffic::{ConnectionPool, Outcome, RoutePolicy, UpstreamProtocol};
use hyper::body::Body;
use hyper::http::request::Parts;
use hyper::{Request, Response};
use std::borrow::Cow;
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
    pub(super) session: &'a Session,
    pub(super) cluster: &'a Arc<Cluster>,
    pub(super) policy: &'a RoutePolicy,
    /// It is a gRPC call.
    pub(super) call: bool,
    pub(super) workload: Option<Arc<Workload>>,
    /// The addresses to try, in order and then from the first again. Not empty.
    pub(super) order: &'a [SocketAddr],
    /// The first address is that of the request's hash.
    pub(super) hashed: bool,
    /// The request may be sent again after it was sent whole. Otherwise nothing of it is kept.
    pub(super) repeats: bool,
    pub(super) interim: &'a Interim,
    pub(super) body: RequestSource,
    pub(super) end: Arc<RequestEnd>,
}

/// How an attempt ended without a response.
enum Lost {
    /// The upstream was lost. `started`: bytes of the request were sent.
    Reset { reset: UpstreamReset, started: bool },
    /// Its time limit passed.
    Timeout,
}

impl Attempts<'_> {
    /// Sends the request until an attempt's response goes to the client. `Err` is the reply instead of one.
    pub(super) async fn send(
        &self,
        parts: Parts,
        ticket: &mut Ticket,
    ) -> Result<Answered, LocalReply> {
        let policy = &self.policy.retries;
        let tls = self.cluster.policy.tls.as_ref();
        let http2 = self.cluster.protocol == UpstreamProtocol::Http2;
        let peer = tls.map(|tls| Peer::of_request(tls, authority(&parts), http2));
        let mut head = Head::new(parts);
        let mut retry = 0;
        let mut tried = Vec::new();
        // Of the last retry, until the next one or the response.
        let mut _counted = None;
        loop {
            let is_last = retry == policy.attempts;
            let Some(address) = self.address(retry as usize, &tried) else {
                self.deny(DenialReason::NoEndpoint);
                return Err(LocalReply::no_healthy_upstream());
            };
            let to = (address, peer.as_ref());
            let spends = is_last || !self.repeats;
            let attempt = self.attempt(&mut head, spends, to, ticket).await;
            self.note(address, &attempt);
            _counted = None;
            let again = match &attempt {
                Ok(Answered { response, .. }) => {
                    policy.after_response(response.status().as_u16(), response.headers())
                }
                Err(Lost::Reset { reset, started }) => policy.after_reset(reset, *started),
                Err(Lost::Timeout) => policy.after_timeout(),
            };
            // What was sent and not kept cannot be sent again.
            let kept = (is_last || head.is_kept()) && self.body.is_whole();
            let again = again && policy.attempts > 0 && kept;
            if again && is_last {
                ticket.record.flags = ticket.record.flags.with(ResponseFlag::URX);
            }
            if !again || is_last {
                return attempt.map_err(|lost| lost.reply(retry > 0, ticket.record.flags));
            }
            let Ok(permit) = self.count(Usage::retry) else {
                ticket.record.flags = ticket.record.flags.with(ResponseFlag::UO);
                return attempt.map_err(|lost| lost.reply(retry > 0, ticket.record.flags));
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

    /// The endpoint of an attempt. `None` if all of them are left alone by now.
    fn address(&self, retry: usize, tried: &[SocketAddr]) -> Option<SocketAddr> {
        if retry == 0 {
            return self.order.first().copied();
        }
        let mut order = Cow::Borrowed(self.order);
        if let Some(workload) = &self.workload
            && self.cluster.policy.outliers.is_some()
        {
            workload.leave_out(self.cluster, order.to_mut());
        }
        let same = if self.hashed { 0 } else { retry };
        let next = order.get(same.checked_rem(order.len())?);
        let avoids = self.policy.retries.avoid_previous.unwrap_or(!self.hashed);
        let mut others = order.iter().filter(|address| !tried.contains(address));
        let other = others.next().filter(|_| avoids);
        other.or(next).copied()
    }

    /// Notes how an attempt ended.
    fn note(&self, address: SocketAddr, attempt: &Result<Answered, Lost>) {
        let outcome = match attempt {
            Ok(Answered { response, .. }) => Outcome::Status(response.status().as_u16()),
            Err(Lost::Timeout) => Outcome::TimedOut,
            Err(Lost::Reset { reset, .. }) => match reset {
                UpstreamReset::Overflow(_) => return,
                UpstreamReset::ConnectTimeout => Outcome::TimedOut,
                _ => Outcome::Lost,
            },
        };
        if let Some(workload) = &self.workload {
            workload.note(self.cluster, address, outcome);
        }
    }

    /// The route's timeout passed during the attempt at this address.
    pub(super) fn late(&self, address: Option<SocketAddr>) {
        if let Some((workload, address)) = self.workload.as_ref().zip(address) {
            workload.note(self.cluster, address, Outcome::TimedOut);
        }
    }

    /// Counts something, if the cluster counts.
    fn count(
        &self,
        take: impl FnOnce(&Arc<Usage>, &ConnectionPool) -> Result<Permit, Overflow>,
    ) -> Result<Option<Permit>, Overflow> {
        let pool = &self.cluster.policy.pool;
        let counted = self.workload.as_ref().filter(|_| pool.counts());
        let permit = counted.map(|workload| take(&workload.usage, pool));
        permit.transpose()
    }

    /// Counts what the request needs. Without it the request is denied.
    fn needed(
        &self,
        take: impl FnOnce(&Arc<Usage>, &ConnectionPool) -> Result<Permit, Overflow>,
    ) -> Result<Option<Permit>, Lost> {
        self.count(take).map_err(|Overflow| {
            self.deny(DenialReason::ConnectionPool);
            Lost::Reset {
                reset: UpstreamReset::Overflow(None),
                started: false,
            }
        })
    }

    /// Reports a denial by the state of the cluster.
    fn deny(&self, reason: impl FnOnce(String) -> DenialReason) {
        let reason = reason(self.cluster.id.host.to_string());
        self.session.client.deny(reason, None);
    }

    /// One attempt, which `spends` the head when it sends the request. If the origin closed a kept connection before any
    /// byte of the response, it is replaced, provided that the request was not sent or may be sent twice.
    async fn attempt(
        &self,
        head: &mut Head,
        spends: bool,
        (address, peer): (SocketAddr, Option<&Peer>),
        ticket: &mut Ticket,
    ) -> Result<Answered, Lost> {
        let taking = self.take(address, peer);
        let (kept, mut making) = tokio::select! {
            biased;
            taken = taking => taken,
            never = self.body.read_ahead() => match never {},
        };
        if let Some(mut upstream) = kept {
            count(head, address, ticket);
            let repeatable = self.body.is_empty() && head.is_idempotent();
            self.begin(&mut upstream, address, ticket)?;
            let request = self.request(head, spends && !repeatable)?;
            match self.ask(&mut upstream, request).await? {
                Ok(response) => return Ok(Answered { response, upstream }),
                Err(Unanswered { unsent, reset }) => match unsent.map(Request::into_parts) {
                    Some((parts, _)) => *head = Head::new(parts),
                    None if repeatable && reset == UpstreamReset::Termination => {}
                    None => return Err(Lost::after(reset)),
                },
            }
            if let Carrier::Http2(_) = upstream {
                making = Some(self.session.streams.replace(self.cluster, address, peer));
            }
        }
        count(head, address, ticket);
        let mut upstream = tokio::select! {
            biased;
            connected = Box::pin(self.connect(address, peer, making)) => connected?,
            never = self.body.read_ahead() => match never {},
        };
        self.begin(&mut upstream, address, ticket)?;
        let request = self.request(head, spends)?;
        match self.ask(&mut upstream, request).await? {
            Ok(response) => Ok(Answered { response, upstream }),
            Err(Unanswered { reset, .. }) => Err(Lost::after(reset)),
        }
    }

    /// A connection that is open, or the right to make one for HTTP/2.
    async fn take(
        &self,
        address: SocketAddr,
        peer: Option<&Peer>,
    ) -> (Option<Carrier<RequestBody>>, Option<Making<'_>>) {
        let Session { pool, streams, .. } = self.session;
        if !self.session.is_http2(self.cluster) {
            let kept = pool.take(self.cluster, address, peer).await;
            return (kept.map(Carrier::Http1), None);
        }
        match streams.take(self.cluster, address, peer).await {
            Ok(lease) => (Some(Carrier::Http2(lease)), None),
            Err(making) => (None, Some(making)),
        }
    }

    /// A new connection, as soon as the cluster's limits allow one. With a right to make one for HTTP/2, it is that.
    async fn connect(
        &self,
        address: SocketAddr,
        peer: Option<&Peer>,
        making: Option<Making<'_>>,
    ) -> Result<Carrier<RequestBody>, Lost> {
        let client = &self.session.client;
        let pool = &self.cluster.policy.pool;
        let pending = self.needed(Usage::pending)?;
        let permit = match (&self.workload, &pending) {
            (Some(workload), Some(_)) => Some(workload.usage.next_connection(pool).await),
            _ => None,
        };
        let unstarted = |reset| Lost::Reset {
            reset,
            started: false,
        };
        let connected = connect(client, address, peer, pool).await;
        let (stream, place) = connected.map_err(unstarted)?;
        let held = Held::new(permit, client.logged(|| stream.local()));
        if let Some(making) = making {
            let opened = making.open(client, stream, place, (pool, held)).await;
            return Ok(Carrier::Http2(opened.map_err(unstarted)?));
        }
        let service = Arc::clone(self.cluster);
        let made = Upstream::new(stream, place, address, service, peer.cloned()).await;
        let mut upstream = made.map_err(|error| Lost::after(reset_of(&error)))?;
        upstream.held = held;
        Ok(Carrier::Http1(upstream))
    }

    /// Counts a request for the connection that it has.
    fn begin(
        &self,
        upstream: &mut Carrier<RequestBody>,
        address: SocketAddr,
        ticket: &mut Ticket,
    ) -> Result<(), Lost> {
        ticket.record.upstream_local = upstream.local();
        let permit = self.needed(Usage::request)?;
        let several = self.cluster.endpoints.len() > 1;
        let workload = self.workload.as_ref().filter(|_| several);
        let load = workload.map(|workload| workload.load(address));
        upstream.begin(permit, load);
        Ok(())
    }

    /// The request of an attempt. It `spends` the head if no further attempt needs it.
    fn request(&self, head: &mut Head, spends: bool) -> Result<Request<RequestBody>, Lost> {
        // Both are there, because `send` makes no further attempt without them.
        let (parts, body) = head.next(spends).zip(self.body.body()).ok_or(Lost::LOCAL)?;
        Ok(Request::from_parts(parts, body))
    }

    /// Sends a request and waits for the head of the response. `Err` if the attempt's own time limit passes before.
    async fn ask(
        &self,
        upstream: &mut Carrier<RequestBody>,
        request: Request<RequestBody>,
    ) -> Result<Result<Response<MessageBody>, Unanswered<RequestBody>>, Lost> {
        let asking = upstream.ask(request, self.interim.clone().passing());
        let Some(limit) = self.policy.per_try_timeout() else {
            return Ok(asking.await);
        };
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
    }

    /// Keeps the connection of a response that does not go to the client, if it is between two requests.
    fn give_up(&self, answered: Answered, ticket: &Ticket) {
        let Answered { response, upstream } = answered;
        if response.body().is_end_stream() && self.end.at().is_some() {
            upstream.keep(&self.session.pool, ticket.client());
        }
    }
}

/// Counts an attempt at an address.
fn count(head: &mut Head, address: SocketAddr, ticket: &mut Ticket) {
    ticket.record.attempts += 1;
    (ticket.record.upstream, ticket.record.upstream_local) = (Some(address), None);
    let attempts = ticket.record.attempts;
    head.change(|headers| set_attempt(headers, attempts));
}

impl Lost {
    /// For what cannot happen.
    const LOCAL: Self = Self::Reset {
        reset: UpstreamReset::Termination,
        started: true,
    };

    /// The connection failed after it was made.
    fn after(reset: UpstreamReset) -> Self {
        let started = true;
        Self::Reset { reset, started }
    }

    /// The reply to the client, with these flags besides its own.
    fn reply(&self, retried: bool, flags: ResponseFlags) -> LocalReply {
        let reply = match self {
            Self::Reset { reset, .. } => LocalReply::upstream_reset(reset, retried),
            Self::Timeout => LocalReply::per_try_timeout(),
        };
        reply.flagged(flags)
    }
}
