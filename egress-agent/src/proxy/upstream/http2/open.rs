//! The HTTP/2 connections of one client connection by the endpoint that each leads to, and which idle ones are closed.
//!
//! It makes no connection, and begins no stream.

use super::connection::Connection;
use crate::proxy::upstream::tls::Peer;
use egress_core::routing::Cluster;
use egress_core::traffic::{ClusterId, ProxyProtocol};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::Notify;

/// The open connections, and those that are being made.
pub(super) struct State {
    /// The idle ones in the order in which they became idle.
    pub(super) open: Vec<(Endpoint, Arc<Connection>)>,
    pub(super) making: Vec<(Endpoint, Arc<Notify>)>,
    /// The most idle connections.
    most_idle: usize,
}

/// Where a connection leads.
#[derive(Clone, PartialEq)]
pub(super) struct Endpoint {
    id: ClusterId,
    pub(super) address: SocketAddr,
    /// The header that it began with.
    header: Option<ProxyProtocol>,
    /// Whose certificate was verified, if it is TLS.
    peer: Option<Peer>,
}

impl State {
    /// With at most so many idle connections.
    pub(super) fn new(most_idle: usize) -> Self {
        Self {
            open: Vec::new(),
            making: Vec::new(),
            most_idle,
        }
    }

    /// Closes idle connections to addresses that the service does not have.
    pub(super) fn leave(&mut self, service: &Cluster, to: &Endpoint) {
        self.open.retain(|(leads, open)| {
            let is_kept = leads.id != to.id || service.keeps(to.address, leads.address);
            open.is_open() && (is_kept || open.is_used())
        });
    }

    /// A connection became idle. Closes those that have been idle for the longest time if there are too many.
    pub(super) fn rested(&mut self, connection: &Arc<Connection>) {
        let is_it = |(_, open): &(Endpoint, Arc<Connection>)| Arc::ptr_eq(open, connection);
        if let Some(at) = self.open.iter().position(is_it) {
            self.open[at..].rotate_left(1);
        }
        self.open.retain(|(_, open)| open.is_open());
        let idle = self.open.iter().filter(|(_, open)| !open.is_used()).count();
        let mut over = idle.saturating_sub(self.most_idle);
        self.open.retain(|(_, open)| {
            let goes = over > 0 && !open.is_used();
            over -= usize::from(goes);
            !goes
        });
    }
}

impl Endpoint {
    pub(super) fn new(service: &Cluster, address: SocketAddr, peer: Option<&Peer>) -> Self {
        Self {
            id: service.id.clone(),
            address,
            header: service.policy.proxy_protocol,
            peer: peer.cloned(),
        }
    }

    /// Whether a connection that leads here may carry a flow of a service to this one.
    pub(super) fn serves(&self, service: &Cluster, to: &Self) -> bool {
        service.is_same(to.address, self.address)
            && self.id == to.id
            && self.header == to.header
            && self.peer == to.peer
    }
}
