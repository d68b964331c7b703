//! HTTP/1.1: one client connection, and the judgement of each request on it.
//!
//! The Host of every request is checked against the routes of that moment. How an allowed request is
//! carried upstream is `exchange`'s affair.

use super::body::ReplyBody;
use super::exchange::{Exchange, exchange};
use super::flow::{Client, Counters, OwnedTask, Rewound, Ticket};
use super::upstream::Pool;
use super::{DrainSignal, Protocol, RefusalReason};
use bytes::Bytes;
use egress_core::http::authority::parse_authority;
use egress_core::http::headers::{UpgradeAsked, upgrade_asked};
use egress_core::http::local_reply::LocalReply;
use egress_core::routing::{Cluster, HttpDecision, HttpRoute, RequestHead, RouteTable, Turn};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, SERVER};
use hyper::http::HeaderMap;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Headers of one request (Envoy's `max_headers_count` default).
const MAX_HEADERS: usize = 100;

/// One client connection.
pub(super) struct Connection {
    pub(super) client: Client,
    /// A head on this connection had both `content-length` and `transfer-encoding`.
    framed_twice: Arc<AtomicBool>,
    pub(super) pool: Arc<Pool>,
    /// The websocket that the connection has become.
    pub(super) tunnel: Mutex<Option<OwnedTask>>,
    /// The host of the last request that was let through.
    last: Mutex<Option<String>>,
}

/// Serves a connection until it ends or the drain lets it go.
pub(super) async fn serve(client: Client, mut stream: Rewound, mut drain: DrainSignal) {
    let limits = client.shared.limits;
    let framed_twice = stream.watch_framing();
    let counters = stream.counters();
    let this = Arc::new(Connection {
        client,
        framed_twice,
        pool: Arc::default(),
        tunnel: Mutex::default(),
        last: Mutex::default(),
    });
    let service = {
        let this = Arc::clone(&this);
        service_fn(move |request| {
            let this = Arc::clone(&this);
            async move { Ok::<_, Infallible>(this.handle(request).await) }
        })
    };
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle);
    builder
        .max_headers(MAX_HEADERS)
        .max_header_size(limits.head);
    let mut serving = pin!(
        builder
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
    );
    let to_its_end = async {
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            _ = drain.started() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended
            && error.is_parse()
        {
            this.client
                .refuse(RefusalReason::MalformedHttp(error.to_string()), None);
        }
        let tunnel = this
            .tunnel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut tunnel) = tunnel
            && let Err(error) = (&mut tunnel.0).await
        {
            tracing::error!(target: "egress::proxy", %error, "a websocket ended badly");
        }
    };
    // Whatever it is at, upstream and websocket included: they go with the connection.
    tokio::select! {
        () = to_its_end => {}
        // A body or a websocket that does not go on; between requests the parser's limit is first.
        () = counters.silence(limits.idle) => {}
        () = this.client.removed(|routes, policy| this.is_listed(routes, policy)) => {
            let last = this.last.lock().unwrap_or_else(PoisonError::into_inner).take();
            this.client.refuse(RefusalReason::Removed, last.as_deref());
        }
    }
}

/// A request that may go on.
struct Allowed {
    cluster: Arc<Cluster>,
    route: Arc<HttpRoute>,
    upgrade: UpgradeAsked,
}

/// A request that may not: what the client gets, and what the observer does.
struct Refused(LocalReply, RefusalReason);

impl Connection {
    async fn handle(self: Arc<Self>, mut request: Request<Incoming>) -> Response<ReplyBody> {
        let counters = Arc::new(Counters::default());
        let mut ticket = Ticket::new(self.client.clone(), Protocol::Http, counters);
        ticket.record.method = request.method().to_string();
        ticket.record.path = request
            .uri()
            .path_and_query()
            .map_or_else(String::new, ToString::to_string);
        let framed_twice = self.framed_twice.load(Ordering::Acquire);
        let authority = if framed_twice {
            let reason =
                RefusalReason::MalformedHttp("both content-length and transfer-encoding".into());
            Err(Refused(LocalReply::malformed(), reason))
        } else {
            take_authority(&mut request)
        };
        if let Ok(authority) = &authority {
            ticket.record.host.clone_from(authority);
        }
        let allowed = authority.and_then(|authority| self.judge(&request, &authority));
        match allowed {
            Ok(allowed) => {
                let exchange_of = Exchange {
                    cluster: allowed.cluster,
                    timeout: allowed.route.timeout,
                    websocket: allowed.upgrade == UpgradeAsked::Websocket,
                };
                exchange(&self, exchange_of, request, ticket).await
            }
            Err(Refused(reply, reason)) => {
                let name = Some(ticket.record.host.clone()).filter(|name| !name.is_empty());
                let close = closes(&reason);
                self.client.refuse(reason, name.as_deref());
                let mut response = local_response(&reply, ticket);
                if close {
                    response
                        .headers_mut()
                        .insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        }
    }

    /// Whether the host of the last request still is listed; before the first, whether the port is.
    fn is_listed(&self, routes: &RouteTable, policy: u32) -> bool {
        let dialled = self.client.origin.destination;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_deref() {
            // A host is found by its name alone, not by method or path.
            Some(authority) => {
                let head = RequestHead {
                    authority,
                    method: "GET",
                    path: "/",
                    headers: &HeaderMap::new(),
                };
                !matches!(
                    routes.http(policy, dialled, &head, 0),
                    HttpDecision::UnlistedHost
                )
            }
            None => routes.port(policy, dialled.port()).is_some(),
        }
    }

    fn judge(&self, request: &Request<Incoming>, authority: &str) -> Result<Allowed, Refused> {
        let path = request
            .uri()
            .path_and_query()
            .map_or("/", |path| path.as_str());
        let head = RequestHead {
            authority,
            method: request.method().as_str(),
            path,
            headers: request.headers(),
        };
        let Refused(reply, reason) = match self.decide(&head) {
            HttpDecision::Forward(cluster, route) => {
                return self.allow(request, authority, cluster, route);
            }
            HttpDecision::UnlistedHost => {
                let reason = parse_authority(authority)
                    .map_or_else(RefusalReason::BadHost, |_| RefusalReason::UnlistedHost);
                Refused(LocalReply::unlisted_host(), reason)
            }
            HttpDecision::NoRoute => Refused(LocalReply::no_route(), RefusalReason::NoRoute),
            HttpDecision::NoCluster(cluster) => {
                let reason = RefusalReason::NoCluster(cluster.host.clone());
                Refused(LocalReply::no_cluster(), reason)
            }
            HttpDecision::NotCarriedOut(why) => {
                Refused(LocalReply::no_cluster(), RefusalReason::NotCarriedOut(why))
            }
        };
        match self.client.audited(&reason, Some(authority)) {
            Some(cluster) => self.allow(request, authority, cluster, Arc::default()),
            None => Err(Refused(reply, reason)),
        }
    }

    /// Judges by the policy that the owner has now. `last` is in place before the snapshot is looked
    /// at again: a change that comes later finds the request there and ends it.
    fn decide(&self, head: &RequestHead<'_>) -> HttpDecision {
        let (origin, routes) = (&self.client.origin, &self.client.shared.routes);
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last().clone();
        loop {
            let now = routes.load();
            let policy = origin.policy_in(&now);
            let decision = now.http(policy, origin.destination, head, Turn::Next);
            *last() = match decision {
                HttpDecision::Forward(..) => Some(head.authority.to_owned()),
                _ => before.clone(),
            };
            if Arc::ptr_eq(&now, &routes.load()) {
                return decision;
            }
        }
    }

    /// Lets a request go on to where it was judged to go, unless it is more than a request.
    fn allow(
        &self,
        request: &Request<Incoming>,
        authority: &str,
        cluster: Arc<Cluster>,
        route: Arc<HttpRoute>,
    ) -> Result<Allowed, Refused> {
        let upgrade = upgrade_asked(request.headers());
        if upgrade == UpgradeAsked::Other {
            return Err(Refused(
                LocalReply::upgrade_refused(),
                RefusalReason::UpgradeRefused,
            ));
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority.to_owned());
        Ok(Allowed {
            cluster,
            route,
            upgrade,
        })
    }
}

/// Finds the one host that a request names, and leaves it in one place: the target becomes a path,
/// the Host header the authority. An absolute target outweighs a Host header (RFC 9112 §3.2.2).
fn take_authority(request: &mut Request<Incoming>) -> Result<String, Refused> {
    let ambiguous = || Refused(LocalReply::bad_request(), RefusalReason::AmbiguousHost);
    if request.version() != Version::HTTP_11 {
        return Err(Refused(
            LocalReply::upgrade_required(),
            RefusalReason::Http10,
        ));
    }
    if request.method() == Method::CONNECT {
        // No route of Istio's has a connect matcher.
        return Err(Refused(LocalReply::no_route(), RefusalReason::Connect));
    }
    // Several Host lines are one value of several hosts, which is listed nowhere.
    let hosts: Vec<_> = request
        .headers()
        .get_all(HOST)
        .iter()
        .map(HeaderValue::to_str)
        .collect();
    let hosts: Vec<&str> = hosts
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|_| ambiguous())?;
    if hosts.is_empty() {
        return Err(ambiguous());
    }
    let host = hosts.join(",");
    let Some(authority) = request.uri().authority().map(ToString::to_string) else {
        return Ok(host.trim().to_owned());
    };
    if request.uri().scheme_str() != Some("http") {
        return Err(ambiguous());
    }
    let header = HeaderValue::from_str(&authority).map_err(|_| ambiguous())?;
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let target: Uri = path.parse().map_err(|_| ambiguous())?;
    *request.uri_mut() = target;
    request.headers_mut().insert(HOST, header);
    Ok(authority)
}

/// Whether Envoy closes the connection after a reply of its own.
fn closes(reason: &RefusalReason) -> bool {
    use RefusalReason::{AmbiguousHost, Connect, Http10, MalformedHttp, UpgradeRefused};
    matches!(
        reason,
        AmbiguousHost | Connect | Http10 | MalformedHttp(_) | UpgradeRefused
    )
}

/// A local reply as Envoy sends it; `date` is hyper's to add.
pub(super) fn local_response(reply: &LocalReply, mut ticket: Ticket) -> Response<ReplyBody> {
    ticket.record.response_code = reply.status;
    ticket.record.flags = reply.flags;
    ticket
        .counters
        .sent
        .store(reply.body.len() as u64, Ordering::Relaxed);
    ticket.done();
    let body = Some(Bytes::from(reply.body.clone().into_owned())).filter(|body| !body.is_empty());
    let mut response = Response::new(ReplyBody::Local(body));
    // Every status of `LocalReply` is a valid one.
    *response.status_mut() =
        hyper::StatusCode::from_u16(reply.status).unwrap_or(hyper::StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
    if !reply.body.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    headers.insert(SERVER, HeaderValue::from_static("envoy"));
    response
}
