//! Entries of a port by the addresses that they are listed for: the longest prefix first. Does not
//! know what an entry does.

use super::entries::{TcpRoute, TlsRoute, VirtualHost};
use super::inside::canonical;
use crate::sharing::share;
use imbl::OrdMap;
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Destinations whose bytes are relayed unread if neither Host nor SNI is listed. The longest prefix wins among those
/// for any bytes, then among the sniffed ones; of one prefix listed twice, the first.
///
/// A persistent map, as [`super::ByName`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ByNetwork {
    any: Networks,
    sniffed: Networks,
}

impl ByNetwork {
    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.any.lists.is_empty() && self.sniffed.lists.is_empty()
    }

    /// Pairs of a network and a route.
    pub fn len(&self) -> usize {
        let lists = self.any.lists.values().chain(self.sniffed.lists.values());
        lists.map(|list| list.len()).sum()
    }

    /// Every route, once for each of its networks.
    pub(super) fn routes(&self) -> impl Iterator<Item = &Arc<TcpRoute>> {
        let lists = self.any.lists.values().chain(self.sniffed.lists.values());
        lists.flat_map(|list| list.iter())
    }

    /// Lists these routes for a network, in this order, and replaces the former ones.
    pub fn set(&mut self, net: IpNet, routes: Vec<Arc<TcpRoute>>) {
        let (sniffed, any) = routes.into_iter().partition(|route| route.sniffed);
        self.any.set(net.trunc(), any);
        self.sniffed.set(net.trunc(), sniffed);
    }

    /// Shares the parts that are equal in another map.
    pub(super) fn share(&mut self, other: &Self) {
        share(&mut self.any.lists, &other.any.lists);
        share(&mut self.sniffed.lists, &other.sniffed.lists);
    }

    /// What `accept` makes of a route for bytes to this destination: the first that it takes, of
    /// those for any bytes before the sniffed ones, so that these never take HTTP from them.
    pub(super) fn find<R>(
        &self,
        addr: IpAddr,
        accept: impl Fn(&Arc<TcpRoute>) -> Option<R>,
    ) -> Option<R> {
        let addr = canonical(addr);
        let found = self.any.find(addr, &accept);
        found.or_else(|| self.sniffed.find(addr, &accept))
    }
}

/// Routes in their order, each for its own networks.
impl From<Vec<Arc<TcpRoute>>> for ByNetwork {
    fn from(routes: Vec<Arc<TcpRoute>>) -> Self {
        let mut lists = BTreeMap::<IpNet, Vec<Arc<TcpRoute>>>::new();
        for route in &routes {
            for net in &route.nets {
                lists.entry(*net).or_default().push(Arc::clone(route));
            }
        }
        let mut new = Self::default();
        for (net, routes) in lists {
            new.set(net, routes);
        }
        new
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Networks {
    /// By a network without host bits.
    lists: OrdMap<IpNet, Arc<[Arc<TcpRoute>]>>,
    /// How many networks there are of each length.
    lengths: BTreeMap<Reverse<u8>, u32>,
}

impl Networks {
    fn set(&mut self, net: IpNet, routes: Vec<Arc<TcpRoute>>) {
        let length = Reverse(net.prefix_len());
        let (had, has) = if routes.is_empty() {
            (self.lists.remove(&net).is_some(), false)
        } else {
            (self.lists.insert(net, routes.into()).is_some(), true)
        };
        if has && !had {
            *self.lengths.entry(length).or_default() += 1;
        } else if had && !has {
            let count = self.lengths.get(&length).copied().unwrap_or_default();
            if count > 1 {
                self.lengths.insert(length, count - 1);
            } else {
                self.lengths.remove(&length);
            }
        }
    }

    fn find<R>(&self, addr: IpAddr, accept: impl Fn(&Arc<TcpRoute>) -> Option<R>) -> Option<R> {
        self.lengths.keys().find_map(|length| {
            let net = IpNet::new(addr, length.0).ok()?.trunc();
            self.lists.get(&net)?.iter().find_map(&accept)
        })
    }
}

/// Hosts and server names by `addresses`. Few services have any, so a change rebuilds the lists. A copy shares them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ByAddress(Arc<Lists>);

#[derive(Debug, Default, PartialEq)]
struct Lists {
    hosts: Vec<(IpNet, Arc<VirtualHost>)>,
    tls: Vec<(IpNet, Arc<TlsRoute>)>,
}

impl ByAddress {
    /// `hosts`: the networks of hosts that a request may name by the dialled address in its Host: the single addresses
    /// of `addresses`; with resolution NONE all networks in it.
    ///
    /// `tls`: networks of `addresses`. A single address needs no server name (istio
    /// `pilot/pkg/networking/core/tls.go`); a larger network needs one.
    pub fn new(hosts: Vec<(IpNet, Arc<VirtualHost>)>, tls: Vec<(IpNet, Arc<TlsRoute>)>) -> Self {
        Self(Arc::new(Lists { hosts, tls }))
    }

    /// Hosts that a request may name by this address, the longest network first.
    pub(super) fn hosts_of(&self, addr: IpAddr) -> impl Iterator<Item = &Arc<VirtualHost>> {
        let known = self.0.hosts.iter();
        let mut known: Vec<_> = known.filter(|(net, _)| net.contains(&addr)).collect();
        known.sort_by_key(|(net, _)| Reverse(net.prefix_len()));
        known.into_iter().map(|(_, host)| host)
    }

    /// Routes that take flows to a single address without a server name.
    pub(super) fn nameless(&self, addr: IpAddr) -> impl Iterator<Item = &Arc<TlsRoute>> {
        let single = IpNet::from(addr);
        let known = self.0.tls.iter();
        known
            .filter(move |(net, _)| *net == single)
            .map(|(_, to)| to)
    }

    /// The first network of `addresses` that contains an address.
    pub(super) fn tls_network(&self, addr: IpAddr) -> Option<IpNet> {
        let mut networks = self.0.tls.iter().map(|(net, _)| *net);
        networks.find(|net| net.contains(&addr))
    }
}
