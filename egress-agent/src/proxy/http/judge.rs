//! Judges each request on a connection by the present routes and policy.
//!
//! It answers nothing and forwards nothing.

use crate::proxy::client::Client;
use crate::proxy::observe::DenialReason;
use egress_core::http::grpc_timeout::call_timeout;
use egress_core::http::hop_by_hop::{UpgradeAsked, upgrade_asked};
use egress_core::http::local_reply::{LocalReply, is_grpc};
use egress_core::routing::{Act, Cluster, HttpDecision, HttpDenial, RequestHead, RouteTable, Turn};
use egress_ebpf::ids::PolicyId;
use hyper::Request;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::HeaderMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A request whose route is carried out.
pub(super) struct Allowed {
    pub(super) act: Act,
    /// What the client gets instead of a destination's response, and why.
    pub(super) denied: Option<(LocalReply, DenialReason)>,
    /// The upgrade that it asks for.
    pub(super) upgrade: UpgradeAsked,
    /// It is a gRPC call. The timeout of its policy is the shorter of the route's and the client's.
    pub(super) call: bool,
}

impl Allowed {
    fn new<B>(request: &Request<B>, mut act: Act) -> Self {
        let kind = request.headers().get(CONTENT_TYPE);
        let call = kind.is_some_and(|kind| is_grpc(kind.as_bytes()));
        if call {
            let timeout = call_timeout(request.headers(), act.policy.timeout);
            if timeout != act.policy.timeout {
                Arc::make_mut(&mut act.policy).timeout = timeout;
            }
        }
        Self {
            act,
            denied: None,
            upgrade: upgrade_asked(request.headers()),
            call,
        }
    }

    /// Whether it asks for a websocket.
    pub(super) fn is_websocket(&self) -> bool {
        self.upgrade == UpgradeAsked::Websocket
    }

    /// Whether it asks for an upgrade that Istio's sidecars do not pass through.
    pub(super) fn is_denied_upgrade(&self) -> bool {
        self.upgrade == UpgradeAsked::Other
    }
}

/// The judge of one connection.
pub(super) struct Judge {
    client: Client,
    last: Mutex<Option<Last>>,
}

/// The last allowed request.
#[derive(Clone)]
struct Last {
    host: String,
    /// Its destination; `None` if the proxy answers it.
    to: Option<Arc<Cluster>>,
}

impl Judge {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            last: Mutex::default(),
        }
    }

    /// Waits until the owner's policy no longer lists the host of the last request, nor its destination while it runs
    /// (`is_running`), and records that.
    pub(super) async fn removed(&self, is_running: impl Fn() -> bool) {
        let listed = |routes: &RouteTable, policy| self.is_listed(routes, policy, is_running());
        self.client.removed(listed).await;
        let last = self.last().take();
        let host = last.as_ref().map(|last| &*last.host);
        self.client.deny(DenialReason::Removed, host);
    }

    fn last(&self) -> MutexGuard<'_, Option<Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the host of the last request is still listed, and its destination if it runs. Before the first request,
    /// whether the port is.
    fn is_listed(&self, routes: &RouteTable, policy: PolicyId, is_running: bool) -> bool {
        let dialled = self.client.origin.destination;
        let last = self.last();
        let Some(Last { host, to }) = &*last else {
            return routes.port(policy, dialled.port()).is_some();
        };
        // The name alone decides whether a host is listed, not method or path.
        let head = RequestHead {
            authority: host,
            method: "GET",
            path: "/",
            headers: &HeaderMap::new(),
        };
        let decision = routes.http(policy, dialled, &head, 0);
        let to = to.as_ref().filter(|_| is_running);
        !matches!(decision, HttpDecision::UnlistedHost)
            && to.is_none_or(|to| routes.keeps_request(policy, dialled, host, to))
    }

    /// Where a request goes, or why it does not. The upgrade that it asks for is not judged.
    pub(super) fn judge<B>(
        &self,
        request: &Request<B>,
        authority: &str,
    ) -> Result<Allowed, Box<HttpDenial>> {
        let head = RequestHead::of(request, authority);
        let scheme = request.headers().get("x-forwarded-proto");
        // As in Envoy, before the host is looked at.
        let without_route = if head.path == "*" {
            Some(LocalReply::asterisk())
        } else if scheme.is_some_and(HeaderValue::is_empty) {
            Some(LocalReply::no_route())
        } else {
            None
        };
        let decided = match without_route {
            Some(reply) => Err(Box::new(HttpDenial {
                reply,
                reason: DenialReason::NoRoute,
                act: None,
            })),
            None => self.decide(&head).or_denial(authority),
        };
        match decided {
            Ok(act) => Ok(Allowed::new(request, act)),
            Err(mut denial) => match self.client.audited(&denial.reason, Some(authority)) {
                Some(cluster) => {
                    let act = cluster.into();
                    self.note(authority, &act);
                    Ok(Allowed::new(request, act))
                }
                None => match denial.act.take() {
                    Some(act) => Ok(Allowed {
                        denied: Some((denial.reply, denial.reason)),
                        ..Allowed::new(request, act)
                    }),
                    None => Err(denial),
                },
            },
        }
    }

    /// Judges by the owner's present policy. `last` is set before the snapshot is read again, so a later change finds
    /// the request there and ends it.
    fn decide(&self, head: &RequestHead<'_>) -> HttpDecision {
        let (origin, routes) = (&self.client.origin, &self.client.shared.routes);
        let is_same = |last: &Last| last.host == head.authority;
        let before = self.last().as_ref().filter(|last| !is_same(last)).cloned();
        loop {
            let now = routes.load();
            let policy = origin.policy_in(&now);
            let decision = now.http(policy, origin.destination, head, Turn::Next);
            if let HttpDecision::Act(act) = &decision {
                self.note(head.authority, act);
            } else {
                match &mut *self.last() {
                    Some(last) if before.is_none() && is_same(last) => last.to = None,
                    last => last.clone_from(&before),
                }
            }
            if Arc::ptr_eq(&now, &routes.load()) {
                return decision;
            }
        }
    }

    /// Notes a request that is allowed.
    fn note(&self, authority: &str, act: &Act) {
        let to = act.action.destinations().map(|to| Arc::clone(&to.cluster));
        let mut last = self.last();
        match &mut *last {
            // Most requests of a connection are for the host of the previous one.
            Some(last) if last.host == authority => last.to = to,
            last => {
                let host = authority.to_owned();
                *last = Some(Last { host, to });
            }
        }
    }
}
