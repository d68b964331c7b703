//! Judges each request on a connection by the present routes and policy.
//!
//! It answers nothing and forwards nothing.

use crate::proxy::client::Client;
use crate::proxy::observe::DenialReason;
use egress_core::http::grpc_timeout::call_timeout;
use egress_core::http::hop_by_hop::{UpgradeAsked, upgrade_asked};
use egress_core::http::local_reply::{LocalReply, is_grpc};
use egress_core::routing::{Act, HttpDecision, HttpDenial, RequestHead, RouteTable, Turn};
use egress_ebpf::ids::PolicyId;
use hyper::Request;
use hyper::header::CONTENT_TYPE;
use hyper::http::HeaderMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A request that may continue.
pub(super) struct Allowed {
    pub(super) act: Act,
    /// It asks for a websocket.
    pub(super) websocket: bool,
    /// It is a gRPC call. The timeout of its policy is the shorter of the route's and the client's.
    pub(super) call: bool,
}

/// The judge of one connection.
pub(super) struct Judge {
    client: Client,
    /// The host of the last allowed request.
    last: Mutex<Option<String>>,
}

impl Judge {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            last: Mutex::default(),
        }
    }

    /// Waits until the owner's policy no longer lists the host of the last request, and records that.
    pub(super) async fn removed(&self) {
        let listed = |routes: &RouteTable, policy| self.is_listed(routes, policy);
        self.client.removed(listed).await;
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        self.client.deny(DenialReason::Removed, last.as_deref());
    }

    /// Whether the host of the last request is still listed. Before the first request, whether the port is.
    fn is_listed(&self, routes: &RouteTable, policy: PolicyId) -> bool {
        let dialled = self.client.origin.destination;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.as_deref() {
            // The name alone decides whether a host is listed, not method or path.
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

    /// Where a request goes, or why it does not.
    pub(super) fn judge<B>(
        &self,
        request: &Request<B>,
        authority: &str,
    ) -> Result<Allowed, HttpDenial> {
        let head = RequestHead::of(request, authority);
        match self.decide(&head).or_denial(authority) {
            Ok(act) => self.allow(request, authority, act),
            Err(denial) => match self.client.audited(&denial.reason, Some(authority)) {
                Some(cluster) => self.allow(request, authority, cluster.into()),
                None => Err(denial),
            },
        }
    }

    /// Judges by the owner's present policy. `last` is set before the snapshot is read again, so a later change finds
    /// the request there and ends it.
    fn decide(&self, head: &RequestHead<'_>) -> HttpDecision {
        let (origin, routes) = (&self.client.origin, &self.client.shared.routes);
        let last = || self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // Most requests of a connection are for the host of the previous one.
        let is_same = last().as_deref() == Some(head.authority);
        let before = if is_same { None } else { last().clone() };
        loop {
            let now = routes.load();
            let policy = origin.policy_in(&now);
            let decision = now.http(policy, origin.destination, head, Turn::Next);
            if !is_same {
                *last() = match decision {
                    HttpDecision::Act(..) => Some(head.authority.to_owned()),
                    _ => before.clone(),
                };
            }
            if Arc::ptr_eq(&now, &routes.load()) {
                return decision;
            }
        }
    }

    /// Allows a request to its destination, unless it asks for an upgrade that is denied.
    fn allow<B>(
        &self,
        request: &Request<B>,
        authority: &str,
        mut act: Act,
    ) -> Result<Allowed, HttpDenial> {
        let upgrade = upgrade_asked(request.headers());
        if upgrade == UpgradeAsked::Other {
            return Err(HttpDenial {
                reply: LocalReply::upgrade_denied(),
                reason: DenialReason::UpgradeDenied,
            });
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_deref() != Some(authority) {
            *last = Some(authority.to_owned());
        }
        drop(last);
        let kind = request.headers().get(CONTENT_TYPE);
        let call = kind.is_some_and(|kind| is_grpc(kind.as_bytes()));
        if call {
            let timeout = call_timeout(request.headers(), act.policy.timeout);
            if timeout != act.policy.timeout {
                Arc::make_mut(&mut act.policy).timeout = timeout;
            }
        }
        Ok(Allowed {
            act,
            websocket: upgrade == UpgradeAsked::Websocket,
            call,
        })
    }
}
