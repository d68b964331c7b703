//! Where the attempts of a request get their connections: a kept one, or a new one within the limits of the cluster,
//! and for which endpoint.
//!
//! It sends nothing. A request that had to wait for a connection is judged again before it uses the connection.

use super::lost::Lost;
use super::request_body::RequestBody;
use super::session::Session;
use super::standing::Standing;
use crate::proxy::observe::DenialReason;
use crate::proxy::ticket::Ticket;
use crate::proxy::upstream::carrier::{Carrier, reset_of};
use crate::proxy::upstream::connect::connect;
use crate::proxy::upstream::dial::Way;
use crate::proxy::upstream::held::Held;
use crate::proxy::upstream::http2::Making;
use crate::proxy::upstream::pool::Upstream;
use crate::proxy::upstream::tls::Peer;
use crate::proxy::upstream::usage::{Overflow, Permit, Usage};
use crate::proxy::upstream::workload::Workload;
use egress_core::http::upstream_reset::UpstreamReset;
use egress_core::routing::Cluster;
use egress_core::traffic::{ConnectionPool, Outcome};
use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::timeout;

/// See the module.
pub(super) struct Supply<'a> {
    pub(super) session: &'a Session,
    pub(super) cluster: Arc<Cluster>,
    workload: Option<Arc<Workload>>,
    /// The addresses to try, in order and then from the first again. Not empty.
    pub(super) order: Vec<SocketAddr>,
    /// Of the request, if the cluster is balanced by one. The first address is that of the hash.
    hash: Option<u64>,
    standing: Standing<'a>,
    /// The request has waited since it was judged.
    pub(super) waited: bool,
}

/// A connection that is open, or the right to make one.
pub(super) enum Taken<'a> {
    Kept(Carrier<RequestBody>),
    New(Right<'a>),
}

/// The right to make a connection. `Default` is that of HTTP/1.1, which nobody waits for yet.
#[derive(Default)]
pub(super) struct Right<'a> {
    /// For HTTP/2.
    pub(super) making: Option<Making<'a>>,
    /// The request counts as one that waits.
    pending: Option<Permit>,
}

/// What a request waited for.
enum Waited {
    Kept(Box<Carrier<RequestBody>>),
    Room(Permit),
}

impl<'a> Supply<'a> {
    /// Its order may be empty: then the cluster has no endpoint.
    pub(super) fn new(
        session: &'a Session,
        cluster: &Arc<Cluster>,
        hash: Option<u64>,
        standing: Standing<'a>,
    ) -> Self {
        let mut supply = Self {
            session,
            cluster: Arc::clone(cluster),
            workload: None,
            order: Vec::new(),
            hash,
            standing,
            waited: false,
        };
        supply.change(Arc::clone(cluster));
        supply
    }

    /// Goes on with another state of the destination. False if it has no endpoint.
    pub(super) fn change(&mut self, now: Arc<Cluster>) -> bool {
        let client = &self.session.client;
        self.workload = client.workload(&now);
        if now.dynamic.is_some() && now.dynamic == self.cluster.dynamic && !self.order.is_empty() {
            self.cluster = now;
            return true;
        }
        self.order = client.addresses_of(&now, self.workload.as_deref(), self.hash);
        self.cluster = now;
        !self.order.is_empty()
    }

    /// The endpoint of an attempt. `None` if all of them are left alone by now.
    pub(super) fn address(
        &self,
        retry: usize,
        tried: &[SocketAddr],
        avoid_previous: Option<bool>,
    ) -> Option<SocketAddr> {
        if retry == 0 {
            return self.order.first().copied();
        }
        let mut order = Cow::Borrowed(&self.order);
        if let Some(workload) = &self.workload {
            workload.again(&self.cluster, order.to_mut());
        }
        let hashed = self.hash.is_some();
        let same = if hashed { 0 } else { retry };
        let next = order.get(same.checked_rem(order.len())?);
        let avoids = avoid_previous.unwrap_or(!hashed);
        let mut others = order.iter().filter(|address| !tried.contains(address));
        let other = others.next().filter(|_| avoids);
        other.or(next).copied()
    }

    /// Notes how an attempt ended: with this status, or like this.
    pub(super) fn note(&self, address: SocketAddr, ended: Result<u16, &Lost>) {
        let outcome = match ended {
            Ok(status) => Outcome::Status(status),
            Err(Lost::Timeout) => Outcome::TimedOut,
            Err(Lost::Reset { reset, .. }) => match reset {
                UpstreamReset::Overflow(_) => return,
                UpstreamReset::ConnectTimeout => Outcome::TimedOut,
                _ => Outcome::Lost,
            },
            Err(Lost::Removed | Lost::Moved(_)) => return,
        };
        if let Some(workload) = &self.workload {
            workload.note(&self.cluster, address, outcome);
        }
    }

    /// Counts something, if the cluster counts.
    pub(super) fn count(
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
        self.count(take).map_err(|Overflow| self.overflow())
    }

    fn overflow(&self) -> Lost {
        self.deny(DenialReason::ConnectionPool);
        Lost::unstarted(UpstreamReset::Overflow(None))
    }

    /// Reports a denial by the state of the cluster.
    pub(super) fn deny(&self, reason: impl FnOnce(String) -> DenialReason) {
        let reason = reason(self.cluster.id.host.to_string());
        self.session.client.deny(reason, None);
    }

    /// A connection that is open, or the right to make one.
    pub(super) async fn take(
        &self,
        address: SocketAddr,
        peer: Option<&Peer>,
    ) -> Result<Taken<'a>, Lost> {
        if let Some(kept) = self.kept(address, peer).await {
            return Ok(Taken::Kept(kept));
        }
        if !self.session.is_http2(&self.cluster) {
            return Ok(Taken::New(Right::default()));
        }
        let pending = self.needed(Usage::pending)?;
        let streams = self.session.streams();
        Ok(match streams.take(&self.cluster, address, peer).await {
            Ok(lease) => {
                // It may have waited for the connection that another request made.
                self.may_still(lease.address)?;
                Taken::Kept(Carrier::Http2(lease))
            }
            Err(making) => Taken::New(Right {
                making: Some(making),
                pending,
            }),
        })
    }

    /// A connection of this client that is open and free.
    async fn kept(&self, address: SocketAddr, peer: Option<&Peer>) -> Option<Carrier<RequestBody>> {
        if self.session.is_http2(&self.cluster) {
            let streams = self.session.streams();
            let lease = streams.lease(&self.cluster, address, peer);
            return lease.map(Carrier::Http2);
        }
        let kept = self.session.pool.take(&self.cluster, address, peer).await;
        kept.map(Carrier::Http1)
    }

    /// The right to replace a connection that turned out to be lost.
    pub(super) fn replace(
        &self,
        lost: &Carrier<RequestBody>,
        address: SocketAddr,
        peer: Option<&Peer>,
    ) -> Right<'a> {
        let making = match lost {
            Carrier::Http1(_) => None,
            Carrier::Http2(_) => Some(self.session.streams().replace(&self.cluster, address, peer)),
        };
        Right {
            making,
            pending: None,
        }
    }

    /// A new connection, as soon as the cluster's limits allow one, or one that became free meanwhile. Also returns where
    /// it leads.
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        peer: Option<&Peer>,
        right: Right<'a>,
    ) -> Result<(Carrier<RequestBody>, SocketAddr), Lost> {
        let client = &self.session.client;
        let pool = &self.cluster.policy.pool;
        let Right { making, pending } = right;
        let pending = match pending {
            None => self.needed(Usage::pending)?,
            counted => counted,
        };
        let permit = match (&self.workload, &pending) {
            (Some(workload), Some(_)) => match workload.usage.connection(pool) {
                Ok(permit) => Some(permit),
                Err(Overflow) => match self.wait(&workload.usage, address, peer).await? {
                    Waited::Kept(kept) => {
                        let address = kept.address();
                        return Ok((*kept, address));
                    }
                    Waited::Room(permit) => Some(permit),
                },
            },
            _ => None,
        };
        let way = Way {
            cluster: &self.cluster,
            workload: self.workload.as_deref(),
            first: address,
            order: &self.order,
        };
        let connected = connect(client, &way, peer).await.map_err(Lost::unstarted)?;
        let address = connected.address;
        self.may_still(address)?;
        let workload = self.workload.as_ref();
        let mark = workload.and_then(|workload| workload.mark(&self.cluster, address));
        let held = Held::new(permit, mark, client.logged(|| connected.stream.local()));
        if let Some(making) = making {
            let opened = making.open(client, connected, held, pool).await;
            return Ok((Carrier::Http2(opened.map_err(Lost::unstarted)?), address));
        }
        let service = Arc::clone(&self.cluster);
        let made = Upstream::new(connected, service, peer.cloned()).await;
        let mut upstream = made.map_err(|error| Lost::after(reset_of(&error)))?;
        upstream.held = held;
        Ok((Carrier::Http1(upstream), address))
    }

    /// Waits until the cluster has room for one more connection, or one of this client's is free. As in Envoy, the route's
    /// timeout ends it; without one, the time that a connection may be silent.
    async fn wait(
        &self,
        usage: &Arc<Usage>,
        address: SocketAddr,
        peer: Option<&Peer>,
    ) -> Result<Waited, Lost> {
        let pool = &self.cluster.policy.pool;
        let waiting = async {
            loop {
                let freed = usage.freed();
                let ended = self.session.streams().freed();
                if let Some(kept) = self.kept(address, peer).await {
                    return Waited::Kept(Box::new(kept));
                }
                if let Ok(permit) = usage.connection(pool) {
                    return Waited::Room(permit);
                }
                if !usage.evict_one() {
                    tokio::select! {
                        () = freed => {}
                        () = ended => {}
                    }
                }
            }
        };
        let limit = self.session.client.shared.limits.idle;
        let waited = timeout(limit, waiting).await;
        let waited = waited.map_err(|_| self.overflow())?;
        let address = match &waited {
            Waited::Kept(kept) => kept.address(),
            Waited::Room(_) => address,
        };
        self.may_still(address)?;
        Ok(waited)
    }

    /// The present state of the destination, after a wait.
    fn present(&self) -> Result<Arc<Cluster>, Lost> {
        self.standing.now(&self.cluster).ok_or_else(|| {
            let authority = Some(self.standing.authority);
            self.session.client.deny(DenialReason::Removed, authority);
            Lost::Removed
        })
    }

    /// Judges the request again if it has waited, before its next attempt.
    pub(super) fn judged_again(&mut self) -> Result<(), Lost> {
        if !std::mem::take(&mut self.waited) {
            return Ok(());
        }
        let now = self.present()?;
        if Arc::ptr_eq(&now, &self.cluster) || now == self.cluster {
            return Ok(());
        }
        Err(Lost::Moved(now))
    }

    /// Whether the request may still go to this address, after a wait.
    fn may_still(&self, address: SocketAddr) -> Result<(), Lost> {
        let (before, now) = (&self.cluster, self.present()?);
        let same = Arc::ptr_eq(&now, before)
            || now.policy == before.policy
                && now.protocol == before.protocol
                && now.original_dst == before.original_dst
                && now.has(address);
        if same { Ok(()) } else { Err(Lost::Moved(now)) }
    }

    /// Counts a request for the connection that it has.
    pub(super) fn begin(
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
}
