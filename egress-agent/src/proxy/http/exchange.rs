//! One allowed request: headers, the route's timeout, and the response or a local reply.
//!
//! `attempts` sends it upstream.

use super::attempts::{Answered, Attempts};
use super::interim::Interim;
use super::local::local_response;
use super::message_body::MessageBody;
use super::reply_body::{Relay, ReplyBody};
use super::request_body::{RequestBody, RequestEnd, RequestSource};
use super::session::Session;
use crate::proxy::observe::DenialReason;
use crate::proxy::ticket::{OwnedTask, Ticket};
use crate::proxy::upstream::pool::Upstream;
use egress_core::http::headers::{RequestContext, prepare_request, prepare_response};
use egress_core::http::local_reply::LocalReply;
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::routing::Cluster;
use egress_core::traffic::RoutePolicy;
use hyper::header::{EXPECT, HeaderValue};
use hyper::upgrade::{OnUpgrade, on};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use rustix::rand::{GetRandomFlags, getrandom};
use std::future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::copy_bidirectional;
use tokio::time::{Instant, sleep_until};
use uuid::{Builder, Uuid};

/// Where a request goes and how.
pub(super) struct Exchange {
    pub(super) cluster: Arc<Cluster>,
    pub(super) policy: Arc<RoutePolicy>,
    pub(super) websocket: bool,
    /// The client's `expect`.
    pub(super) expect: Option<HeaderValue>,
    /// For the origin's 1xx responses.
    pub(super) interim: Interim,
}

/// Sends one request upstream and returns the client's response.
pub(super) async fn exchange(
    session: &Session,
    to: Exchange,
    mut request: Request<MessageBody>,
    end: Arc<RequestEnd>,
    mut ticket: Ticket,
) -> Response<ReplyBody> {
    let client = &session.client;
    let cluster = &to.cluster;
    ticket.record.service = Some(cluster.id.host.to_string());
    let mut order = client.addresses_of(cluster);
    if order.is_empty() {
        let name = Some(ticket.record.host.as_str());
        let reason = DenialReason::NoEndpoint(cluster.id.host.to_string());
        let Some(dialled) = client.audited(&reason, name) else {
            client.deny(reason, name);
            return local_response(&LocalReply::no_healthy_upstream(), ticket);
        };
        order = client.addresses_of(&dialled);
    }
    let downstream = to.websocket.then(|| on(&mut request));
    let (mut parts, body) = request.into_parts();
    parts.version = Version::HTTP_11;
    let (request_id, trace_id) = numbers();
    prepare_request(
        &mut parts.headers,
        &RequestContext {
            request_id: request_id
                .hyphenated()
                .encode_lower(&mut Uuid::encode_buffer()),
            trace_id,
            timeout: to.policy.expected_timeout(Duration::ZERO),
            service_host: &cluster.id.host,
            service_port: cluster.id.port,
            websocket: to.websocket,
        },
    );
    if let Some(expect) = to.expect {
        parts.headers.insert(EXPECT, expect);
    }
    let keep = (to.policy.retries.attempts > 0).then_some(client);
    let attempts = Attempts {
        session,
        cluster,
        policy: &to.policy,
        order: &order,
        interim: &to.interim,
        body: RequestSource::new(body, &end, &ticket.counters, keep),
        end: Arc::clone(&end),
    };
    // A websocket has no fixed end. Envoy's timer does not run for it either.
    let mut deadline = deadline(
        to.policy.timeout.filter(|_| !to.websocket),
        Arc::clone(&end),
    );
    let answered = {
        let sending = attempts.send(parts, &mut ticket);
        tokio::select! {
            biased;
            answered = sending => answered,
            () = end.broken() => Err(LocalReply::malformed()),
            () = &mut deadline => Err(LocalReply::request_timeout()),
        }
    };
    let Answered {
        mut response,
        upstream,
    } = match answered {
        Ok(answered) => answered,
        // The upstream was lost because its request was broken.
        Err(_) if end.is_broken() => return local_response(&LocalReply::malformed(), ticket),
        Err(reply) => return local_response(&reply, ticket),
    };
    let waited = end.at().map_or(Duration::ZERO, |at| at.elapsed());
    ticket.record.response_code = response.status().as_u16();
    ticket.record.upstream_service_time = Some(waited);
    let switching = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upgraded = on(&mut response);
    let (mut head, inner) = response.into_parts();
    head.version = Version::HTTP_11;
    prepare_response(&mut head.headers, waited, switching);
    if switching {
        let Some(downstream) = downstream else {
            let reset = UpstreamReset::ProtocolError;
            return local_response(&LocalReply::upstream_reset(&reset, false), ticket);
        };
        session.control.tunnel();
        let tunnel = OwnedTask(tokio::spawn(tunnel(downstream, upgraded, upstream, ticket)));
        session.tunnel(tunnel);
        return Response::from_parts(head, ReplyBody::Local(None));
    }
    let relay = Relay {
        inner,
        ticket,
        end,
        deadline: to.policy.timeout.map(|_| deadline),
        upstream: Some(upstream),
        pool: Arc::clone(&session.pool),
    };
    Response::from_parts(head, relay.into_body())
}

/// A request's id and the number of its trace: two random UUIDs from one system call.
fn numbers() -> (Uuid, u128) {
    let mut random = [[0; 16]; 2];
    if getrandom(random.as_flattened_mut(), GetRandomFlags::empty()) != Ok(32) {
        return (Uuid::new_v4(), Uuid::new_v4().as_u128());
    }
    let [id, trace] = random.map(|bytes| Builder::from_random_bytes(bytes).into_uuid());
    (id, trace.as_u128())
}

/// Fires when the timeout has passed since the end of the request. Never fires without a timeout.
fn deadline(
    timeout: Option<Duration>,
    end: Arc<RequestEnd>,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    match timeout {
        Some(timeout) => Box::pin(async move {
            let ended: Instant = end.wait().await;
            sleep_until(ended + timeout).await;
        }),
        None => Box::pin(future::pending()),
    }
}

/// Copies a websocket's bytes until both sides are done.
async fn tunnel(
    downstream: OnUpgrade,
    upstream_side: OnUpgrade,
    upstream: Upstream<RequestBody>,
    mut ticket: Ticket,
) {
    let (Ok(downstream), Ok(upstream_io)) = (downstream.await, upstream_side.await) else {
        return;
    };
    let copied = copy_bidirectional(
        &mut TokioIo::new(downstream),
        &mut TokioIo::new(upstream_io),
    )
    .await;
    drop(upstream);
    if let Ok((received, sent)) = copied {
        use std::sync::atomic::Ordering::Relaxed;
        ticket.counters.received.store(received, Relaxed);
        ticket.counters.sent.store(sent, Relaxed);
        ticket.done();
    }
}
