//! Copies of a request for the mirrors of its route, each sent by a task of its own: nothing that a mirror does
//! changes the request or makes it wait.
//!
//! As in Envoy, a copy is sent once, has the timeout of the route, and ends early if the request does so before its
//! body is whole. Its response is read and dropped. Upgrades are not copied: the bytes behind them belong to one
//! server.

use super::affinity::Affinity;
use super::attempt_head::clone_of;
use super::attempts::{Answered, Attempts};
use super::interim::Interim;
use super::judge::Allowed;
use super::outgoing::{draw, frame};
use super::request_body::{RequestEnd, RequestSource, deadline};
use super::session::Session;
use super::standing::Standing;
use super::supply::Supply;
use crate::proxy::copy_body::{CopyBody, CopyLost, Feed, copy_of};
use crate::proxy::copy_room::CopyRoom;
use crate::proxy::message_body::MessageBody;
use crate::proxy::observe::{CopyEnd, DenialReason};
use crate::proxy::places::BLOCK;
use egress_core::http::copy_headers::{CopyContext, prepare_copy};
use egress_core::routing::{Cluster, Target};
use egress_core::traffic::mirror::policy_of_copies;
use hyper::StatusCode;
use hyper::body::Body as _;
use hyper::http::request::Parts;
use std::cell::LazyCell;
use std::future::{pending, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// Blocks of a copy: the HTTP library's buffers of its connection (8 KiB each to read and to write), its head, the
/// proxy's tasks, and a frame of the response on its way.
const COPY: usize = 12;
/// Further blocks of one with a body: what the HTTP library may take of it before the socket does.
const BODY: usize = 16;

/// Begins the copies of a request whose head is ready. Returns where its body goes besides its upstream.
pub(super) fn begin_copies(
    session: &Session,
    to: &Target,
    allowed: &Allowed,
    authority: &str,
    parts: &Parts,
    body: &MessageBody,
) -> Vec<Feed> {
    let mut feeds = Vec::new();
    let mirrors = to.mirrors.as_deref().filter(|_| !allowed.is_websocket());
    // One number for all mirrors: those with equal shares get copies of the same requests.
    let number = LazyCell::new(draw);
    for mirror in mirrors.into_iter().flatten() {
        if !mirror.share.takes(|| *number) {
            continue;
        }
        let client = &session.client;
        if let Some(reason) = mirror.denial() {
            client.deny(reason, Some(authority));
            client.copied(CopyEnd::Denied);
            continue;
        }
        let copied = (!body.is_end_stream()).then(|| copy_of(client, body.size_hint().exact()));
        let Some(room) = room(session, parts, copied.is_some()) else {
            client.copied(CopyEnd::NoRoom);
            continue;
        };
        let (feed, body) = copied.unzip();
        feeds.extend(feed);
        let copy = Copy {
            session: session.of_copy(),
            cluster: Arc::clone(&mirror.cluster),
            authority: authority.to_owned(),
            timeout: allowed.act.policy.timeout,
            call: allowed.call,
            parts: clone_of(parts),
            body,
            _room: room,
        };
        tokio::spawn(copy.run());
    }
    feeds
}

/// The memory of a copy. A socket for it must be one that the workload has to spare.
fn room(session: &Session, parts: &Parts, with_body: bool) -> Option<CopyRoom> {
    let client = &session.client;
    client.shared.descriptors.spare(client.share(), 1)?;
    let fields = parts.headers.iter();
    let head: usize = fields
        .map(|(name, value)| name.as_str().len() + value.len())
        .sum();
    let blocks = COPY + 2 * (head / BLOCK) + if with_body { BODY } else { 0 };
    let mut room = CopyRoom::none(client);
    room.resize(blocks).then_some(room)
}

/// One copy.
struct Copy {
    session: Session,
    cluster: Arc<Cluster>,
    /// The host that the client asked for.
    authority: String,
    timeout: Option<Duration>,
    /// It is a gRPC call.
    call: bool,
    parts: Parts,
    body: Option<CopyBody>,
    _room: CopyRoom,
}

impl Copy {
    async fn run(self) {
        let client = self.session.client.clone();
        let (cluster, authority) = (Arc::clone(&self.cluster), self.authority.clone());
        let dialled = client.origin.destination;
        let removed = client.removed(|routes, policy| {
            routes.lists_mirror(policy, dialled, &authority, &cluster.id)
        });
        let end = tokio::select! {
            biased;
            () = removed => {
                client.deny(DenialReason::Removed.of_mirror(), Some(&authority));
                CopyEnd::Denied
            }
            end = self.send() => end,
        };
        client.copied(end);
    }

    async fn send(mut self) -> CopyEnd {
        let (session, cluster) = (&self.session, &self.cluster);
        let client = &session.client;
        let affinity = Affinity::of(client, cluster, &self.parts);
        let standing = Standing::of_copy(client, &self.authority);
        let supply = Supply::new(session, cluster, affinity.hash, standing);
        if supply.order.is_empty() {
            let reason = DenialReason::NoEndpoint(cluster.id.host.to_string());
            client.deny(reason.of_mirror(), Some(&self.authority));
            return CopyEnd::Denied;
        }
        let context = CopyContext {
            from: client.peer.ip(),
            span_id: draw(),
            timeout: self.timeout,
        };
        prepare_copy(&mut self.parts.headers, &context);
        if !session.is_http2(cluster) {
            frame(&mut self.parts, self.body.is_some());
        }
        let mut ticket = session.ticket().unrecorded();
        let counters = Arc::clone(&ticket.counters);
        let end = Arc::new(RequestEnd::default());
        let loss = self.body.as_ref().map(CopyBody::loss);
        let body = self.body.map(MessageBody::Copy);
        let policy = policy_of_copies(self.timeout);
        let mut attempts = Attempts {
            supply,
            policy: &policy,
            retries: &policy.retries,
            call: self.call,
            repeats: false,
            // Nobody hears them.
            interim: &Interim::http1(&session.control),
            body: RequestSource::new(body, &end, &counters, None, Vec::new()),
            end: Arc::clone(&end),
            asked: None,
        };
        let answered = async {
            let Answered { response, upstream } =
                attempts.send(self.parts, &mut ticket).await.ok()?;
            let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let mut body = response.into_body();
            while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                let data = frame.ok()?.into_data().ok();
                counters.count_sent(data.map_or(0, |data| data.len()));
            }
            if !switched && end.at().is_some() {
                upstream.keep(&session.pool, client);
            }
            Some(CopyEnd::Answered)
        };
        let given_up = async {
            match &loss {
                Some(loss) => loss.wait().await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            why = given_up => match why {
                CopyLost::NoRoom => CopyEnd::NoRoom,
                CopyLost::Request => CopyEnd::Failed,
            },
            answered = answered => answered.unwrap_or(CopyEnd::Failed),
            () = deadline(self.timeout, Arc::clone(&end)) => CopyEnd::Failed,
            () = counters.silence(client.shared.limits.idle) => CopyEnd::Failed,
        }
    }
}
