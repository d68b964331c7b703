//! What one port of one service adds to the routes of its port.
//!
//! Owns how a plan becomes routes, and where each is found: by name, by address, by network.

use super::clusters::Clusters;
use crate::istio::service_entry::Resolution;
use crate::istio::{Object, hosts};
use crate::policy::endpoints::{everywhere, listed_networks, own_networks};
use crate::registry::plan::PortPlan;
use crate::registry::services::Service;
use crate::routing::{Rank, Split, TcpRoute, TlsRoute, VirtualHost};
use ipnet::IpNet;
use std::cmp::Reverse;
use std::sync::Arc;

/// One port of one service. Ordered by port, then the most specific host first.
pub(super) type Door = (u16, (bool, Reverse<usize>, Arc<str>));

pub(super) fn door(port: u16, host: &Arc<str>) -> Door {
    let (wildcard, length, _) = hosts::specificity(host);
    (port, (wildcard, length, Arc::clone(host)))
}

/// The door that sorts before all others.
pub(super) fn first_door() -> Door {
    (0, (false, Reverse(usize::MAX), Arc::default()))
}

/// What one port of one service adds to the port's routes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Part {
    pub(super) host: Option<Arc<VirtualHost>>,
    /// `addresses` of the entries.
    addresses: Vec<IpNet>,
    /// Resolution NONE: an address in these networks is dialled as it is.
    as_dialled: bool,
    /// Resolution NONE, and some entry has no `addresses`: any address is allowed.
    anywhere: bool,
    /// Of `VirtualService`s.
    tls: Vec<Arc<TlsRoute>>,
    own_name: Option<Arc<TlsRoute>>,
    pub(super) tcp: Vec<Arc<TcpRoute>>,
    /// If there is `tcp`: of two services with one address, the older one has the route.
    pub(super) age: Option<Age>,
}

/// The object that a service's age is that of.
#[derive(Clone, Debug)]
pub(super) struct Age(pub(super) Arc<Object>);

impl PartialEq for Age {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Part {
    /// The part of a plan, with the clusters of its destinations.
    pub(super) fn new(
        service: &Service,
        port: u16,
        plan: &PortPlan,
        clusters: &mut Clusters<'_>,
    ) -> Self {
        let http = plan.http.as_ref().map(|routes| {
            let routes = routes.iter().map(|r| clusters.http(r)).collect();
            Arc::new(VirtualHost {
                host: service.host.to_string(),
                nets: if service.resolution() == Resolution::None {
                    own_networks(service, port)
                } else {
                    Vec::new()
                },
                routes,
            })
        });
        let tls = plan
            .tls
            .iter()
            .filter(|r| !r.sni_hosts.is_empty())
            .map(|r| {
                Arc::new(TlsRoute {
                    sni_hosts: r.sni_hosts.clone(),
                    nets: r.nets.clone(),
                    to: clusters.split(&r.to),
                })
            });
        let tls = tls.collect();
        let own_name = plan.own_name.then(|| {
            Arc::new(TlsRoute {
                sni_hosts: vec![service.host.to_string()],
                nets: Vec::new(),
                to: Split::one(clusters.of(&plan.own)),
            })
        });
        let tcp = clusters.tcp(service, port, plan);
        let oldest = service.entries.first();
        Self {
            age: oldest
                .filter(|_| !tcp.is_empty())
                .map(|e| Age(Arc::clone(&e.object))),
            addresses: listed_networks(service, port),
            as_dialled: service.resolution() == Resolution::None,
            anywhere: service.resolution() == Resolution::None
                && own_networks(service, port).is_empty(),
            host: http,
            tls,
            own_name,
            tcp,
        }
    }

    /// Whether its hosts and server names are found by address.
    pub(super) fn is_addressed(&self) -> bool {
        self.anywhere || !self.addresses.is_empty()
    }

    /// The networks of its routes for bytes.
    pub(super) fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.tcp.iter().flat_map(|route| &route.nets).copied()
    }

    /// Its entries that are found by name, each with its rank among those of one name: the routes of a `VirtualService`
    /// come before the service's own name.
    pub(super) fn tls(&self, host: &Arc<str>) -> impl Iterator<Item = (Rank, &Arc<TlsRoute>)> {
        let ruled = (0..).zip(&self.tls);
        let ruled = ruled.map(|(number, route)| (Rank::Of(Arc::clone(host), number), route));
        let own = self.own_name.iter().map(|route| (Rank::Last, route));
        ruled.chain(own)
    }

    /// Its host, by each address at which it is found.
    pub(super) fn hosts_by_address(&self) -> impl Iterator<Item = (IpNet, Arc<VirtualHost>)> {
        let single = |net: &IpNet| net.prefix_len() == net.max_prefix_len();
        let listed = self.addresses.iter().copied();
        let listed = listed.filter(move |net| self.as_dialled || single(net));
        let all = everywhere().into_iter().filter(|_| self.anywhere);
        let nets = listed.chain(all);
        let host = self.host.iter();
        host.flat_map(move |host| nets.clone().map(|net| (net, Arc::clone(host))))
    }

    /// Its own server name, by each address at which it is found.
    pub(super) fn names_by_address(&self) -> impl Iterator<Item = (IpNet, Arc<TlsRoute>)> {
        let own = self.own_name.iter();
        own.flat_map(|name| self.addresses.iter().map(|net| (*net, Arc::clone(name))))
    }
}
