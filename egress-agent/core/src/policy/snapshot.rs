//! The proxy's snapshot of one policy: the plans of services joined with their addresses.
//!
//! Owns what a change rebuilds: one answer or one rule rebuilds its own hosts and not all.
//! `registry` decides which route applies.

use super::claims::{cluster, doors, everywhere, listed_networks, own_networks};
use super::leases::Leases;
use crate::istio::hosts;
use crate::istio::service_entry::Resolution;
use crate::registry::plan::{HostPlan, HttpPlan, PortPlan, Shares, To};
use crate::registry::services::{Class, Service};
use crate::registry::view::View;
use crate::routing::{
    Cluster, HttpRoute, PolicyRoutes, PortKind, PortRoutes, Split, TcpRoute, TlsRoute, VirtualHost,
};
use crate::traffic::ClusterId;
use ipnet::IpNet;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One port of one service. Ordered by port, then the most specific host first.
type Door = (u16, (bool, Reverse<usize>, Arc<str>));

fn door(port: u16, host: &Arc<str>) -> Door {
    let (wildcard, length, _) = hosts::specificity(host);
    (port, (wildcard, length, Arc::clone(host)))
}

/// The one that sorts before all.
fn first_door() -> Door {
    (0, (false, Reverse(usize::MAX), Arc::default()))
}

/// What one port of one service adds to the port's routes.
#[derive(Clone, Debug, Default)]
struct Part {
    host: Option<Arc<VirtualHost>>,
    /// `addresses` of the entries.
    addresses: Vec<IpNet>,
    /// Resolution NONE: everything that these cover is dialled as it is.
    as_dialled: bool,
    /// Resolution NONE, and some entry has no `addresses`: every address will do.
    anywhere: bool,
    /// Of `VirtualService`s.
    tls: Vec<Arc<TlsRoute>>,
    own_name: Option<Arc<TlsRoute>>,
    tcp: Vec<Arc<TcpRoute>>,
}

/// The routes of one policy as they are built.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    clusters: BTreeMap<To, Arc<Cluster>>,
    /// Each destination with every door that leads to it.
    users: BTreeSet<(To, Door)>,
    parts: BTreeMap<Door, Part>,
    /// Parts to rebuild.
    stale: BTreeSet<Door>,
    /// Ports to rebuild.
    stale_ports: BTreeSet<u16>,
    routes: Arc<PolicyRoutes>,
}

impl Snapshot {
    /// Of a view, with every port still to be built. `passthrough` and `audit` as in
    /// [`PolicyRoutes`].
    pub fn new(view: &View, leases: &Leases, passthrough: Vec<IpNet>, audit: bool) -> Self {
        let routes = PolicyRoutes {
            passthrough: passthrough.into(),
            audit,
            ..PolicyRoutes::default()
        };
        let mut new = Self {
            routes: Arc::new(routes),
            ..Self::default()
        };
        let none = HostPlan::default();
        for host in view.services.keys() {
            new.replan(host, &none, view, leases);
        }
        new
    }

    /// A host's routes are others; `old` is its former plan.
    pub fn replan(&mut self, host: &Arc<str>, old: &HostPlan, view: &View, leases: &Leases) {
        for (port, plan) in old.iter() {
            let door = door(port, host);
            for to in destinations(plan) {
                self.users.remove(&(to.clone(), door.clone()));
                if self.doors_to(to).next().is_none() {
                    self.clusters.remove(to);
                }
            }
            self.parts.remove(&door);
            self.stale.remove(&door);
            self.stale_ports.insert(port);
        }
        for (port, plan) in view.plans.get(host).into_iter().flat_map(HostPlan::iter) {
            let door = door(port, host);
            for to in destinations(plan) {
                self.users.insert((to.clone(), door.clone()));
            }
            self.stale.insert(door);
        }
        self.relocate(host, view, leases);
    }

    fn doors_to(&self, to: &To) -> impl Iterator<Item = &Door> {
        let from = (to.clone(), first_door());
        let same = self.users.range(from..).take_while(move |(t, _)| t == to);
        same.map(|(_, door)| door)
    }

    /// A service has other addresses, or is another.
    pub fn relocate(&mut self, host: &Arc<str>, view: &View, leases: &Leases) {
        let service = view.services.get(host).map(AsRef::as_ref);
        let first = To {
            id: ClusterId::new(Arc::clone(host), 0),
            ..To::default()
        };
        let uses = self.users.range((first, first_door())..);
        let mut made: Option<(&To, bool)> = None;
        for (to, door) in uses.take_while(|(to, _)| to.id.host == *host) {
            let changed = match made {
                Some((held, changed)) if held == to => changed,
                _ => {
                    let cluster = cluster(service, to, leases);
                    let changed = self.clusters.get(to).is_none_or(|held| **held != cluster);
                    if changed {
                        self.clusters.insert(to.clone(), Arc::new(cluster));
                    }
                    changed
                }
            };
            made = Some((to, changed));
            if changed {
                self.stale.insert(door.clone());
            }
        }
        // Doors of bytes without a name are addresses.
        for (port, plan) in view.plans.get(host).into_iter().flat_map(HostPlan::iter) {
            if plan.opaque || !plan.tcp.is_empty() {
                self.stale.insert(door(port, host));
            }
        }
    }

    /// Whether [`Self::routes`] would give something else than before.
    pub fn is_stale(&self) -> bool {
        !self.stale.is_empty() || !self.stale_ports.is_empty()
    }

    /// The routes as they are.
    pub fn routes(&mut self, view: &View, leases: &Leases) -> Arc<PolicyRoutes> {
        if !self.is_stale() {
            return Arc::clone(&self.routes);
        }
        for door in std::mem::take(&mut self.stale) {
            self.stale_ports.insert(door.0);
            let host = &door.1.2;
            let plan = view.plans.get(host).and_then(|p| p.get(door.0));
            if let (Some(plan), Some(service)) = (plan, view.services.get(host)) {
                let part = self.part(service, door.0, plan, view, leases);
                self.parts.insert(door, part);
            }
        }
        let mut routes = PolicyRoutes::clone(&self.routes);
        for port in std::mem::take(&mut self.stale_ports) {
            match self.port(port, view) {
                Some(made) => routes.ports.insert(port, Arc::new(made)),
                None => routes.ports.remove(&port),
            };
        }
        self.routes = Arc::new(routes);
        Arc::clone(&self.routes)
    }

    fn part(
        &mut self,
        service: &Service,
        port: u16,
        plan: &PortPlan,
        view: &View,
        leases: &Leases,
    ) -> Part {
        let mut clusters = Clusters {
            known: &mut self.clusters,
            view,
            leases,
        };
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
        Part {
            addresses: listed_networks(service, port),
            as_dialled: service.resolution() == Resolution::None,
            anywhere: service.resolution() == Resolution::None
                && own_networks(service, port).is_empty(),
            host: http,
            tls,
            own_name,
            tcp: clusters.tcp(service, port, plan),
        }
    }

    fn port(&self, port: u16, view: &View) -> Option<PortRoutes> {
        let mut made = PortRoutes::default();
        let (mut own, mut tcp) = (Vec::new(), Vec::new());
        let from = (port, first_door().1);
        let parts = self
            .parts
            .range(from..)
            .take_while(|(door, _)| door.0 == port);
        for ((_, (.., host)), part) in parts {
            if let Some(host) = &part.host {
                let at = made.hosts.len();
                let known = part
                    .addresses
                    .iter()
                    .filter(|net| part.as_dialled || net.prefix_len() == net.max_prefix_len());
                made.host_addresses.extend(known.map(|net| (*net, at)));
                if part.anywhere {
                    made.host_addresses
                        .extend(everywhere().map(|net| (net, at)));
                }
                made.hosts.push(Arc::clone(host));
            }
            made.tls.extend(part.tls.iter().cloned());
            if let Some(name) = &part.own_name {
                own.push((Arc::clone(name), &part.addresses));
            }
            if !part.tcp.is_empty() {
                let age = view.services.get(host).and_then(|s| s.entries.first());
                tcp.push((age.map(|e| Arc::clone(&e.object)), &part.tcp));
            }
        }
        for (route, addresses) in own {
            let at = made.tls.len();
            made.tls_addresses
                .extend(addresses.iter().map(|net| (*net, at)));
            made.tls.push(route);
        }
        // Of two services with one address the older one's is the route.
        tcp.sort_by(|(a, _), (b, _)| match (a, b) {
            (Some(a), Some(b)) => crate::registry::by_age(a, b),
            (a, b) => a.is_none().cmp(&b.is_none()),
        });
        made.tcp = tcp
            .into_iter()
            .flat_map(|(_, routes)| routes)
            .cloned()
            .collect();
        made.kind = match (made.hosts.is_empty(), made.tls.is_empty()) {
            (false, true) => PortKind::Http,
            (true, _) => PortKind::Tls,
            (false, false) => PortKind::Sniff,
        };
        let any = !made.hosts.is_empty() || !made.tls.is_empty() || !made.tcp.is_empty();
        any.then_some(made)
    }
}

/// Every destination of a port's routes, itself included.
fn destinations(plan: &PortPlan) -> impl Iterator<Item = &To> {
    plan.destinations().chain([&plan.own])
}

/// Destinations as they are at the moment.
struct Clusters<'a> {
    known: &'a mut BTreeMap<To, Arc<Cluster>>,
    view: &'a View,
    leases: &'a Leases,
}

impl Clusters<'_> {
    fn of(&mut self, to: &To) -> Arc<Cluster> {
        let make = || {
            let service = self.view.services.get(&to.id.host);
            Arc::new(cluster(service.map(AsRef::as_ref), to, self.leases))
        };
        Arc::clone(self.known.entry(to.clone()).or_insert_with(make))
    }

    fn split(&mut self, shares: &Shares) -> Split {
        let shares = shares.iter().map(|(w, to)| (*w, self.of(to)));
        shares.collect::<Vec<_>>().into()
    }

    fn http(&mut self, route: &HttpPlan) -> Arc<HttpRoute> {
        Arc::new(HttpRoute {
            matches: route.matches.clone(),
            action: route
                .action
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|action| action.try_map(|to| Ok(self.split(to)))),
            policy: Arc::clone(&route.policy),
        })
    }

    /// Routes for bytes without a name.
    fn tcp(&mut self, service: &Service, port: u16, plan: &PortPlan) -> Vec<Arc<TcpRoute>> {
        let mut routes = Vec::new();
        if plan.tcp.is_empty() && !plan.opaque {
            return routes;
        }
        let sniffed = service.class(port) == Some(Class::Sniffed);
        let mut add = |nets: Vec<IpNet>, to: Split| {
            if !nets.is_empty() {
                routes.push(Arc::new(TcpRoute { nets, sniffed, to }));
            }
        };
        let doors = doors(service, port, self.leases);
        for route in &plan.tcp {
            let own = || [doors.endpoints.as_slice(), &doors.others].concat();
            add(
                route.nets.clone().unwrap_or_else(own),
                self.split(&route.to),
            );
        }
        if plan.opaque {
            // As in the kernel, had no name been listed beside it: straight through.
            let straight = Cluster {
                id: plan.own.id.clone(),
                original_dst: Some(port),
                policy: Arc::clone(&plan.own.policy),
                ..Cluster::default()
            };
            add(doors.endpoints, Split::one(Arc::new(straight)));
            add(doors.others, Split::one(self.of(&plan.own)));
        }
        routes
    }
}
