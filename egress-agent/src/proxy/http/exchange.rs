//! One allowed request: headers, the route's timeout, and the response or a local reply.
//!
//! `attempts` sends it upstream.

use super::affinity::Affinity;
use super::asking::Asking;
use super::attempt_head::authority;
use super::attempts::{Answered, Attempts};
use super::interim::Interim;
use super::judge::Allowed;
use super::local::{FramingOfNoBody, local_response};
use super::mirror::begin_copies;
use super::outgoing;
use super::reply_body::{Relay, ReplyBody};
use super::request_body::{RequestEnd, RequestSource, deadline};
use super::session::Session;
use super::standing::Standing;
use super::supply::Supply;
use super::tunnel::{UpstreamSide, tunnel};
use crate::proxy::client::Client;
use crate::proxy::message_body::MessageBody;
use crate::proxy::observe::DenialReason;
use crate::proxy::ticket::{OwnedTask, Ticket};
use egress_core::http::authority::parse_authority;
use egress_core::http::headers::prepare_response;
use egress_core::http::local_reply::LocalReply;
use egress_core::http::response_flags::ResponseFlags;
use egress_core::http::response_head::framing_of_no_body;
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::routing::{Cluster, Target};
use egress_core::traffic::{HeaderOps, RetryPolicy, RoutePolicy};
use hyper::body::Body as _;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SET_COOKIE};
use hyper::http::request::Parts;
use hyper::http::{HeaderMap, response};
use hyper::upgrade::on;
use hyper::{Request, Response, StatusCode, Version};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Sends one request upstream and returns the client's response.
pub(super) async fn exchange(
    session: &Session,
    to: &Target,
    allowed: &Allowed,
    asking: &Asking,
    mut request: Request<MessageBody>,
    end: Arc<RequestEnd>,
    mut ticket: Ticket,
) -> Response<ReplyBody> {
    let (client, cluster, policy) = (&session.client, &to.cluster, &allowed.act.policy);
    let downstream = allowed.is_websocket().then(|| on(&mut request));
    let (mut parts, body) = request.into_parts();
    let affinity = Affinity::of(client, cluster, &parts);
    let standing = Standing::new(client, &asking.authority, cluster, &parts);
    let mut supply = Supply::new(session, cluster, affinity.hash, standing);
    if supply.order.is_empty() {
        match without_endpoint(client, cluster, &asking.authority).await {
            // It may have waited for the answer of the DNS.
            Ok(found) => (supply.order, supply.waited) = (found, true),
            Err(reply) => return local_response(&reply, ticket),
        }
    }
    parts.version = Version::HTTP_11;
    if outgoing::prepare(session, &mut parts, to, allowed, asking).is_none() {
        return without_path(client, asking, ticket);
    }
    let retries = retries_of_rule(to, policy, &mut parts.headers);
    let retries = retries.as_ref().unwrap_or(&policy.retries);
    ticket.sends(&parts, authority(&parts));
    let http2 = session.is_http2(cluster);
    // Each copy is framed for its own upstream.
    let copies = begin_copies(session, to, allowed, &asking.authority, &parts, &body);
    if !http2 {
        outgoing::frame(&mut parts, !body.is_end_stream());
    }
    let repeats = retries.repeats_sent(speaks_grpc(&parts), http2);
    let keep = repeats.then_some(client);
    let interim = interim_of(&asking.interim, to, policy);
    let mut attempts = Attempts {
        supply,
        policy,
        retries,
        call: allowed.call,
        repeats,
        interim: interim.as_ref().unwrap_or(&asking.interim),
        body: RequestSource::new(Some(body), &end, &ticket.counters, keep, copies),
        end: Arc::clone(&end),
        asked: None,
    };
    let mut deadline = deadline(policy.timeout, Arc::clone(&end));
    let mut late = false;
    let answered = {
        let sending = attempts.send(parts, &mut ticket);
        tokio::select! {
            biased;
            answered = sending => answered,
            () = end.broken() => Err(LocalReply::malformed()),
            () = &mut deadline => {
                late = true;
                Err(LocalReply::request_timeout())
            }
        }
    };
    if late {
        attempts.late();
    }
    let Answered {
        mut response,
        mut upstream,
    } = match answered {
        Ok(answered) => answered,
        // The upstream was lost because its request was broken.
        Err(_) if end.is_broken() => return local_response(&LocalReply::malformed(), ticket),
        Err(reply) => return local_response(&reply, ticket),
    };
    // Envoy measures from the end of the request; a websocket's has none.
    let waited = (end.at().filter(|_| !allowed.is_websocket())).map(|at| at.elapsed());
    ticket.answered(response.status().as_u16(), waited);
    let upgraded = on(&mut response);
    let (mut head, inner) = response.into_parts();
    prepare_head(&mut head, waited, affinity.set_cookie, &ticket);
    ticket.answers(&head.headers);
    let switching = is_switching(&head);
    if allowed.is_websocket() && !switching && head.status.as_u16() < 400 {
        return not_switched(head, ticket);
    }
    if switching {
        let Some(downstream) = downstream else {
            let reset = UpstreamReset::ProtocolError;
            return local_response(&LocalReply::upstream_reset(&reset, false), ticket);
        };
        let side = UpstreamSide::of(upstream.take_duplex(inner), upgraded);
        begin_tunnel(session, tunnel(downstream, side, upstream, ticket));
        return Response::from_parts(head, ReplyBody::Local(None));
    }
    let relay = Relay {
        inner,
        ticket,
        end,
        deadline: policy.timeout.map(|_| deadline),
        upstream: Some(upstream),
        pool: Arc::clone(&session.pool),
    };
    Response::from_parts(head, relay.into_body())
}

/// The retries of a request of which a rule has set headers. Others have none of these headers: a client's are gone.
fn retries_of_rule(
    to: &Target,
    policy: &RoutePolicy,
    headers: &mut HeaderMap,
) -> Option<RetryPolicy> {
    let own = to.headers.as_ref().map(|own| &own.request);
    let mut all = own.into_iter().chain([&policy.headers.request]);
    let changes = all.any(|ops| !ops.is_empty());
    changes.then(|| policy.retries.changed_by(headers))?
}

/// What passes 1xx responses on, if a rule removes headers from responses.
fn interim_of(interim: &Interim, to: &Target, policy: &RoutePolicy) -> Option<Interim> {
    let own = to.headers.as_ref().map(|own| &own.response);
    let all = own.into_iter().chain([&policy.headers.response]);
    let removed: Vec<_> = all.flat_map(HeaderOps::removed).cloned().collect();
    (!removed.is_empty()).then(|| interim.without(removed))
}

/// Lets the connection go on as a tunnel.
fn begin_tunnel(session: &Session, tunnel: impl Future<Output = ()> + Send + 'static) {
    session.control.tunnel();
    session.tunnel(OwnedTask(tokio::spawn(tunnel)));
}

/// Makes the head of an upstream's response that of the client's. `waited`: the upstream's time.
fn prepare_head(
    head: &mut response::Parts,
    waited: Option<Duration>,
    set_cookie: Option<HeaderValue>,
    ticket: &Ticket,
) {
    keep_framing(head, &ticket.record.method);
    let switching = is_switching(head);
    prepare_response(&mut head.headers, waited, switching);
    if let Some(cookie) = set_cookie {
        head.headers.append(SET_COOKIE, cookie);
    }
    // An empty map of extensions takes no memory.
    if ticket.record.flags != ResponseFlags::default() {
        head.extensions.insert(ticket.record.flags);
    }
}

fn is_switching(head: &response::Parts) -> bool {
    head.status == StatusCode::SWITCHING_PROTOCOLS
}

/// The reply where a rewrite makes a path that is not one.
fn without_path(client: &Client, asking: &Asking, ticket: Ticket) -> Response<ReplyBody> {
    let reason = DenialReason::NotCarriedOut("the rewritten path is not one of a URL".into());
    client.deny(reason, Some(&asking.authority));
    let reply = LocalReply::bad_request().detailed("path_normalization_failed");
    local_response(&reply, ticket)
}

/// The response of an origin that did not become a websocket, and does not say that this is an error. As in Envoy, it
/// has no body, and the connection to the origin closes.
fn not_switched(mut head: response::Parts, mut ticket: Ticket) -> Response<ReplyBody> {
    head.headers.remove(CONTENT_LENGTH);
    head.extensions.remove::<FramingOfNoBody>();
    ticket.record.details = "websocket_handshake_unsuccessful".into();
    ticket.done();
    Response::from_parts(head, ReplyBody::Local(None))
}

/// Keeps what a response to a request of this method frames for another one, before `prepare_response` removes it.
fn keep_framing(head: &mut response::Parts, method: &str) {
    head.version = Version::HTTP_11;
    let lines = framing_of_no_body(head.status, method == "HEAD", &head.headers);
    if !lines.is_empty() {
        head.extensions.insert(FramingOfNoBody(lines));
    }
}

/// Where a request goes whose cluster has no endpoint: to the addresses of its host under `DYNAMIC_DNS`, in audit to the
/// address that the client dialled, else nowhere.
async fn without_endpoint(
    client: &Client,
    cluster: &Cluster,
    authority: &str,
) -> Result<Vec<SocketAddr>, LocalReply> {
    if let Some(port) = cluster.dynamic {
        let host = parse_authority(authority).map_err(|_| LocalReply::unlisted_host())?;
        let found = client.addresses_by_name(cluster, port, host.as_str()).await;
        return found.ok_or_else(LocalReply::unresolved);
    }
    let reason = DenialReason::NoEndpoint(cluster.id.host.to_string());
    let Some(dialled) = client.audited(&reason, Some(authority)) else {
        client.deny(reason, Some(authority));
        return Err(LocalReply::no_healthy_upstream());
    };
    Ok(client.addresses_of(&dialled, None, None))
}

/// Whether a request is gRPC in any of its forms, gRPC-Web too.
fn speaks_grpc(parts: &Parts) -> bool {
    let content_type = parts.headers.get(CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
