//! One client connection from its first request to its end.
//!
//! `judge` decides whether a request is allowed; `act` carries out its route.

use super::act::{act, judged};
use super::asking::{Asking, KeptBack, receive, value};
use super::control::Turn;
use super::interim::Interim;
use super::judge::Judge;
use super::local::{Closes, FramingOfNoBody, local_response};
use super::reply_body::{Reply, ReplyBody};
use super::request_body::RequestEnd;
use super::session::Session;
use super::wire::Wire;
use crate::proxy::client::Client;
use crate::proxy::drain::ConnectionDrain;
use crate::proxy::loan::Loan;
use crate::proxy::message_body::MessageBody;
use crate::proxy::observe::{DenialReason, Protocol};
use crate::proxy::stream::Rewound;
use egress_core::http::head_reader::HeadReader;
use egress_core::http::hop_by_hop::{UpgradeAsked, proxy_connection_closes, upgrade_asked};
use egress_core::http::local_reply::{LocalReply, is_grpc};
use egress_core::http::repeated::join_request;
use egress_core::http::request_head::MAX_HEADERS;
use egress_core::http::response_head::reason_phrase;
use egress_core::routing::HttpDenial;
use hyper::body::{Body as _, Incoming};
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::{self, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep, sleep, timeout};

/// How long an idle connection keeps the HTTP library, which has about 40 KB of buffers on both sides. Creating it
/// again takes a few microseconds.
const IDLE_TIME: Duration = Duration::from_secs(1);

/// One client connection.
struct Connection {
    session: Session,
    judge: Judge,
}

/// Serves a connection until it ends or the drain lets it go. Not `async`: a future around the other would hold the
/// arguments twice, for as long as the connection lives.
pub(in crate::proxy) fn serve(
    client: Client,
    stream: Rewound,
    drain: ConnectionDrain,
) -> impl Future<Output = ()> {
    let reader = HeadReader::new(client.shared.limits.head);
    serve_heads(client, stream, reader, drain)
}

/// The same for a connection that may speak HTTP/1.0 too.
pub(in crate::proxy) fn serve_any(
    client: Client,
    stream: Rewound,
    drain: ConnectionDrain,
) -> impl Future<Output = ()> {
    let reader = HeadReader::new(client.shared.limits.head).accepting_http10();
    serve_heads(client, stream, reader, drain)
}

async fn serve_heads(client: Client, stream: Rewound, reader: HeadReader, drain: ConnectionDrain) {
    let limits = client.shared.limits;
    let this = Arc::new(Connection {
        session: Session::new(client.clone(), Protocol::Http),
        judge: Judge::new(client.clone()),
    });
    let stream = Wire::new(
        client.clone(),
        stream,
        reader,
        Arc::clone(&this.session.control),
    );
    let counters = stream.counters();
    let to_its_end = this.to_its_end(stream, drain);
    // Logs a denial at once; the connection ends a moment later.
    let rejection = async {
        this.session.control.rejection().await;
        this.tell_rejected();
        future::pending::<()>().await;
    };
    // Each of these ends the connection at once, with its upstream connections and websocket.
    let is_running = || matches!(this.session.control.turn(), Turn::Request);
    tokio::select! {
        () = to_its_end => {}
        () = rejection => {}
        () = this.session.control.has_left() => {}
        // A body or a websocket that does not continue. Between requests, the limit for heads comes first.
        () = counters.silence(limits.idle) => {}
        () = this.judge.removed(is_running) => {}
    }
    this.tell_rejected();
}

impl Connection {
    /// Serves requests with the HTTP library, and waits for them without it.
    async fn to_its_end(self: &Arc<Self>, mut stream: Wire, mut drain: ConnectionDrain) {
        let limits = self.session.client.shared.limits;
        let mut patience = limits.idle;
        loop {
            // A connection without a request has nothing to finish, unless a request is on the way.
            tokio::select! {
                begun = timeout(patience, stream.begun()) => if !matches!(begun, Ok(Ok(true))) {
                    return;
                },
                never = self.session.pool.watch() => match never {},
                () = drain.started_unused() => return,
            }
            let Some((back, since)) = self.served(stream, &mut drain).await else {
                return self.session.tunnelled().await;
            };
            stream = back;
            stream.rest();
            self.session.rest().await;
            patience = limits.idle.saturating_sub(since.elapsed());
        }
    }

    /// Serves requests until the connection has been idle for a while. Then returns the stream and the time since
    /// when it is idle. `None` at the end of the connection.
    async fn served(
        self: &Arc<Self>,
        stream: Wire,
        drain: &mut ConnectionDrain,
    ) -> Option<(Wire, Instant)> {
        let limits = self.session.client.shared.limits;
        let service = {
            let this = Arc::clone(self);
            service_fn(move |request| {
                let this = Arc::clone(&this);
                async move { Ok::<_, Infallible>(this.handle(request).await) }
            })
        };
        let mut builder = Builder::new();
        builder
            // Heads are read and timed below the library.
            .header_read_timeout(None)
            // The canonical form of a head may be longer than the head was.
            .max_headers(MAX_HEADERS)
            .max_header_size(limits.head.saturating_mul(4));
        let (loan, home) = Loan::new(stream);
        let serving = builder.serve_connection(TokioIo::new(loan), service);
        let mut serving = Box::pin(serving.with_upgrades());
        let mut rest = pin!(sleep(IDLE_TIME.min(limits.idle)));
        let until_idle = poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Err(ended)),
            Poll::Pending => self.poll_idle(rest.as_mut(), cx).map(Ok),
        });
        let ended = tokio::select! {
            ended = until_idle => ended,
            () = drain.started() => {
                serving.as_mut().graceful_shutdown();
                Err(serving.as_mut().await)
            }
        };
        drop(serving);
        match ended {
            Ok(since) => home.take().map(|stream| (stream, since)),
            Err(ended) => {
                if let Err(error) = ended
                    && error.is_parse()
                {
                    let reason = DenialReason::MalformedHttp(error.to_string());
                    self.session.client.deny(reason, None);
                }
                None
            }
        }
    }

    /// Whether the connection has waited for a request for as long as the HTTP library is kept.
    fn poll_idle(&self, mut rest: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Instant> {
        let limit = IDLE_TIME.min(self.session.client.shared.limits.idle);
        loop {
            let turn = self.session.control.turn();
            if let Turn::Wanted(since) = turn {
                return Poll::Ready(since);
            }
            ready!(rest.as_mut().poll(cx));
            let since = match turn {
                Turn::Head(since) | Turn::Wanted(since) => since,
                Turn::Request => Instant::now(),
            };
            if since.elapsed() >= limit {
                return Poll::Ready(since);
            }
            rest.as_mut().reset(since + limit);
        }
    }

    async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Response<Reply> {
        let mut response = self.answer(request).await;
        let lines = response.extensions_mut().remove::<FramingOfNoBody>();
        let lines = lines.map_or_else(Vec::new, |FramingOfNoBody(lines)| lines);
        self.session.control.responds(lines);
        set_reason(&mut response);
        let client = self.session.client.clone();
        response.map(|body| Reply::new(body, Arc::clone(&self.session.control), client))
    }

    async fn answer(self: &Arc<Self>, mut request: Request<Incoming>) -> Response<ReplyBody> {
        let mut ticket = self.session.ticket();
        join_request(request.headers_mut());
        let mut asked = self.session.control.take_asked();
        let kept = asked.as_mut().map(|asked| KeptBack {
            expect: value(asked.expect.take()),
            connection: value(asked.connection.take()),
        });
        let is_path = request.uri().path() != "*";
        let closes = proxy_connection_closes(request.headers());
        receive(request.headers_mut(), kept.unwrap_or_default(), is_path);
        ticket.asked(request.headers());
        ticket.record.method = request.method().as_str().to_owned();
        let content_type = request.headers().get(CONTENT_TYPE);
        ticket.grpc = content_type.is_some_and(|value| is_grpc(value.as_bytes()));
        ticket.record.path = request
            .uri()
            .path_and_query()
            .map_or_else(String::new, |target| target.as_str().to_owned());
        let Some(asked) = asked else {
            // The library returns only requests that it was given, so this does not happen.
            return local_response(&LocalReply::malformed(), ticket);
        };
        ticket.record.host.clone_from(&asked.authority);
        let end = Arc::new(RequestEnd::default());
        let without_body = request.body().is_end_stream();
        let upgrade = upgrade_asked(request.headers());
        let (mut response, is_whole) =
            match judged(&self.judge, &request, &asked.authority, &mut ticket).await {
                Ok(allowed) => {
                    let asking = Asking {
                        authority: asked.authority,
                        interim: Interim::http1(&self.session.control),
                    };
                    let response = act(
                        &self.session,
                        &allowed,
                        &asking,
                        request.map(MessageBody::Http1),
                        Arc::clone(&end),
                        ticket,
                    )
                    .await;
                    (response, without_body || end.at().is_some())
                }
                Err(denial) => {
                    let HttpDenial { reply, reason, .. } = *denial;
                    let name = Some(asked.authority).filter(|name| !name.is_empty());
                    self.session.client.deny(reason, name.as_deref());
                    (local_response(&reply, ticket), without_body)
                }
            };
        // As Envoy, the proxy does not wait for a client that has not sent its whole request. The rest must not be
        // read as a new request.
        // An upgrade that was refused may have sent bytes of its protocol.
        let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let refused = upgrade != UpgradeAsked::No;
        let bad = response.extensions_mut().remove::<Closes>().is_some();
        if !is_whole || bad || !switches && (refused || closes) {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
        }
        response
    }

    /// Records a request whose head was rejected and answered below the library.
    fn tell_rejected(&self) {
        let Some(error) = self.session.control.take_rejected() else {
            return;
        };
        let mut ticket = self.session.ticket();
        ticket.replied(&error.reply());
        self.session.client.deny(error.reason(), None);
    }
}

/// Gives a response Envoy's words for its status, not the origin's.
fn set_reason<B>(response: &mut Response<B>) {
    let (status, reason) = (response.status(), reason_phrase(response.status()));
    if status.canonical_reason() == Some(reason) {
        response.extensions_mut().remove::<ReasonPhrase>();
    } else {
        let reason = ReasonPhrase::from_static(reason.as_bytes());
        response.extensions_mut().insert(reason);
    }
}
