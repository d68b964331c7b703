//! HTTP/1.1: one client connection, and the judgement of each request on it.
//!
//! The Host of every request is checked against the routes of that moment. How an allowed request is
//! carried upstream is `exchange`'s affair.

use super::control::{Asked, Control};
use super::exchange::{Exchange, exchange};
use super::flow::{Client, OwnedTask, Rewound, Ticket};
use super::local::local_response;
use super::reply_body::{Reply, ReplyBody};
use super::request_body::RequestEnd;
use super::upstream::Pool;
use super::wire::Wire;
use super::{DrainSignal, Protocol, RefusalReason};
use egress_core::http::headers::{UpgradeAsked, upgrade_asked};
use egress_core::http::local_reply::{LocalReply, is_grpc};
use egress_core::http::request_head::{HeadReader, MAX_HEADERS};
use egress_core::routing::{Cluster, HttpDecision, HttpDenial, RequestHead, RouteTable, Turn};
use egress_core::traffic::{HttpAction, RoutePolicy};
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::http::HeaderMap;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::future;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::timeout;

/// One client connection.
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) control: Arc<Control>,
    pub(super) pool: Arc<Pool>,
    /// The websocket that the connection has become.
    pub(super) tunnel: Mutex<Option<OwnedTask>>,
    /// The host of the last request that was let through.
    last: Mutex<Option<String>>,
}

/// Serves a connection until it ends or the drain lets it go.
pub(super) async fn serve(client: Client, stream: Rewound, drain: DrainSignal) {
    let reader = HeadReader::new(client.shared.limits.head);
    serve_heads(client, stream, reader, drain).await;
}

/// The same for a connection that may speak HTTP/1.0 too.
pub(super) async fn serve_any(client: Client, stream: Rewound, drain: DrainSignal) {
    let reader = HeadReader::new(client.shared.limits.head).accepting_http10();
    serve_heads(client, stream, reader, drain).await;
}

async fn serve_heads(client: Client, stream: Rewound, reader: HeadReader, mut drain: DrainSignal) {
    let limits = client.shared.limits;
    let control = Arc::new(Control::default());
    let mut stream = Wire::new(client.clone(), stream, reader, Arc::clone(&control));
    let counters = stream.counters();
    let this = Arc::new(Connection {
        client,
        control,
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
    // The canonical form of a head may be longer than the head was.
    builder
        .max_headers(MAX_HEADERS)
        .max_header_size(limits.head.saturating_mul(4));
    let to_its_end = async {
        // A connection on which nothing was asked yet has nothing to finish.
        tokio::select! {
            begun = timeout(limits.idle, stream.begun()) => if !matches!(begun, Ok(Ok(true))) {
                return;
            },
            _ = drain.started() => return,
        }
        let serving = builder.serve_connection(TokioIo::new(stream), service);
        let mut serving = pin!(serving.with_upgrades());
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
    // A denial is told at once; the connection ends a moment later.
    let refusal = async {
        this.control.refusal().await;
        this.tell_refused();
        future::pending::<()>().await;
    };
    // Whatever it is at, upstream and websocket included: they go with the connection.
    tokio::select! {
        () = to_its_end => {}
        () = refusal => {}
        // A body or a websocket that does not go on; between requests the parser's limit is first.
        () = counters.silence(limits.idle) => {}
        () = this.client.removed(|routes, policy| this.is_listed(routes, policy)) => {
            let last = this.last.lock().unwrap_or_else(PoisonError::into_inner).take();
            this.client.refuse(RefusalReason::Removed, last.as_deref());
        }
    }
    this.tell_refused();
}

/// A request that may go on.
struct Allowed {
    cluster: Arc<Cluster>,
    policy: Arc<RoutePolicy>,
    upgrade: UpgradeAsked,
}

impl Connection {
    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<Reply> {
        let response = self.answer(request).await;
        self.control.responds();
        let client = self.client.clone();
        response.map(|body| Reply::new(body, Arc::clone(&self.control), client))
    }

    async fn answer(self: &Arc<Self>, request: Request<Incoming>) -> Response<ReplyBody> {
        let mut ticket = self.ticket();
        ticket.record.method = request.method().to_string();
        let content_type = request.headers().get(CONTENT_TYPE);
        ticket.grpc = content_type.is_some_and(|value| is_grpc(value.as_bytes()));
        ticket.record.path = request
            .uri()
            .path_and_query()
            .map_or_else(String::new, ToString::to_string);
        let Some(Asked {
            authority, expect, ..
        }) = self.control.take_asked()
        else {
            // The library gives no request but those that it was given.
            return local_response(&LocalReply::malformed(), ticket);
        };
        ticket.record.host.clone_from(&authority);
        let end = Arc::new(RequestEnd::default());
        let without_body = request.body().is_end_stream();
        let (mut response, is_whole) = match self.judge(&request, &authority) {
            Ok(allowed) => {
                let exchange_of = Exchange {
                    cluster: allowed.cluster,
                    policy: allowed.policy,
                    websocket: allowed.upgrade == UpgradeAsked::Websocket,
                    expect: expect.and_then(|value| HeaderValue::from_bytes(&value).ok()),
                };
                let response = exchange(self, exchange_of, request, Arc::clone(&end), ticket).await;
                (response, end.at().is_some())
            }
            Err(HttpDenial { reply, reason }) => {
                let name = Some(authority).filter(|name| !name.is_empty());
                let closes = reason == RefusalReason::UpgradeRefused;
                self.client.refuse(reason, name.as_deref());
                (local_response(&reply, ticket), without_body && !closes)
            }
        };
        // A client that has not sent all of its request is not waited for, as in Envoy. It must not
        // take what follows for a new request.
        if !is_whole {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    fn ticket(&self) -> Ticket {
        Ticket::new(self.client.clone(), Protocol::Http, Arc::default())
    }

    /// Records a request whose head was refused and answered below the library.
    fn tell_refused(&self) {
        let Some(error) = self.control.take_refused() else {
            return;
        };
        let mut ticket = self.ticket();
        let reply = error.reply();
        ticket.record.response_code = reply.status;
        ticket.record.flags = reply.flags;
        let sent = reply.body.len() as u64;
        ticket.counters.sent.store(sent, Ordering::Relaxed);
        ticket.done();
        self.client.refuse(error.reason(), None);
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

    fn judge(&self, request: &Request<Incoming>, authority: &str) -> Result<Allowed, HttpDenial> {
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
        match self.decide(&head).or_denial(authority) {
            Ok((HttpAction::Forward(cluster), policy)) => {
                self.allow(request, authority, cluster, policy)
            }
            Err(denial) => match self.client.audited(&denial.reason, Some(authority)) {
                Some(cluster) => self.allow(request, authority, cluster, Arc::default()),
                None => Err(denial),
            },
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
                HttpDecision::Act(..) => Some(head.authority.to_owned()),
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
        policy: Arc<RoutePolicy>,
    ) -> Result<Allowed, HttpDenial> {
        let upgrade = upgrade_asked(request.headers());
        if upgrade == UpgradeAsked::Other {
            return Err(HttpDenial {
                reply: LocalReply::upgrade_refused(),
                reason: RefusalReason::UpgradeRefused,
            });
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(authority.to_owned());
        Ok(Allowed {
            cluster,
            policy,
            upgrade,
        })
    }
}
