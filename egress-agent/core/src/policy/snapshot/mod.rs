//! The proxy's snapshot of one policy: the plans of services joined with their addresses.
//!
//! Owns what a change rebuilds: one answer or one rule rebuilds its own hosts, however many others a
//! port lists. `registry` decides which route applies.

mod clusters;

use super::claims::{cluster, everywhere, listed_networks, own_networks};
use super::leases::Leases;
use crate::istio::service_entry::Resolution;
use crate::istio::{Object, hosts};
use crate::registry::by_age;
use crate::registry::plan::{HostPlan, PortPlan, To};
use crate::registry::services::Service;
use crate::registry::view::View;
use crate::routing::{
    ByAddress, Cluster, PolicyRoutes, PortKind, PortRoutes, Rank, Split, TcpRoute, TlsRoute,
    VirtualHost,
};
use crate::traffic::ClusterId;
use clusters::Clusters;
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
    /// Where there is `tcp`: of two services with one address the older one's is the route.
    age: Option<Arc<Object>>,
}

impl Part {
    /// Whether its hosts and server names are found by address.
    fn is_addressed(&self) -> bool {
        self.anywhere || !self.addresses.is_empty()
    }

    /// The networks of its routes for bytes.
    fn networks(&self) -> impl Iterator<Item = IpNet> {
        self.tcp
            .iter()
            .flat_map(|route| &route.nets)
            .map(IpNet::trunc)
    }

    /// Its entries that are found by name, each with its place among those of one name: what a
    /// `VirtualService` says of a server name comes before the service's own name.
    fn tls(&self, host: &Arc<str>) -> impl Iterator<Item = (Rank, &Arc<TlsRoute>)> {
        let ruled = (0..).zip(&self.tls);
        let ruled = ruled.map(|(number, route)| (Rank::Of(Arc::clone(host), number), route));
        let own = self.own_name.iter().map(|route| (Rank::Last, route));
        ruled.chain(own)
    }
}

/// The routes of one policy as they are built.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    clusters: BTreeMap<To, Arc<Cluster>>,
    /// Each destination with every door that leads to it.
    users: BTreeSet<(To, Door)>,
    parts: BTreeMap<Door, Part>,
    /// Those with hosts or server names that are found by address.
    addressed: BTreeSet<Door>,
    /// Those with routes for bytes, by the networks of these.
    networks: BTreeSet<(IpNet, Door)>,
    /// Parts to rebuild.
    stale: BTreeSet<Door>,
    /// Ports whose lists of addresses are to be rebuilt.
    stale_addresses: BTreeSet<u16>,
    /// `routes` has changed since it was last given out.
    changed: bool,
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
            changed: true,
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
            self.stale.remove(&door);
            self.put(&door, None);
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
        self.changed || !self.stale.is_empty()
    }

    /// The routes as they are.
    pub fn routes(&mut self, view: &View, leases: &Leases) -> Arc<PolicyRoutes> {
        for door in std::mem::take(&mut self.stale) {
            let host = &door.1.2;
            let plan = view.plans.get(host).and_then(|p| p.get(door.0));
            if let (Some(plan), Some(service)) = (plan, view.services.get(host)) {
                let part = self.part(service, door.0, plan, view, leases);
                self.put(&door, Some(part));
            }
        }
        for port in std::mem::take(&mut self.stale_addresses) {
            let addresses = self.by_address(port);
            self.change(port, |routes| routes.addresses = addresses);
        }
        self.changed = false;
        Arc::clone(&self.routes)
    }

    /// Puts a part in the place of the former one.
    fn put(&mut self, door: &Door, new: Option<Part>) {
        let (number, (.., host)) = door;
        let (number, host) = (*number, Arc::clone(host));
        let old = self.parts.remove(door);
        let networks =
            |of: &Option<Part>| -> BTreeSet<IpNet> { of.iter().flat_map(Part::networks).collect() };
        let (left, came) = (networks(&old), networks(&new));
        if self.addressed.remove(door) || new.as_ref().is_some_and(Part::is_addressed) {
            self.stale_addresses.insert(number);
        }
        self.change(number, |routes| {
            if let Some(old) = &old {
                routes.hosts.remove(&host, &Rank::Last);
                for (rank, route) in old.tls(&host) {
                    for name in &route.sni_hosts {
                        routes.tls.remove(name, &rank);
                    }
                }
            }
            let Some(new) = &new else {
                return;
            };
            if let Some(virtual_host) = &new.host {
                routes
                    .hosts
                    .insert(&host, Rank::Last, Arc::clone(virtual_host));
            }
            for (rank, route) in new.tls(&host) {
                for name in &route.sni_hosts {
                    let name = if **name == *host {
                        Arc::clone(&host)
                    } else {
                        name.as_str().into()
                    };
                    routes.tls.insert(&name, rank.clone(), Arc::clone(route));
                }
            }
        });
        if let Some(new) = new {
            if new.is_addressed() {
                self.addressed.insert(door.clone());
            }
            self.parts.insert(door.clone(), new);
        }
        for net in &left {
            self.networks.remove(&(*net, door.clone()));
        }
        self.networks
            .extend(came.iter().map(|net| (*net, door.clone())));
        for net in left.union(&came) {
            let list = self.relaying(number, *net);
            self.change(number, |routes| routes.tcp.set(*net, list));
        }
    }

    /// The routes for bytes to a network, in their order.
    fn relaying(&self, port: u16, net: IpNet) -> Vec<Arc<TcpRoute>> {
        let from = (net, (port, first_door().1));
        let doors = self.networks.range(from..);
        let doors = doors.take_while(|(of, door)| (*of, door.0) == (net, port));
        let mut parts: Vec<&Part> = doors.filter_map(|(_, door)| self.parts.get(door)).collect();
        parts.sort_by(|a, b| match (&a.age, &b.age) {
            (Some(a), Some(b)) => by_age(a, b),
            (a, b) => a.is_none().cmp(&b.is_none()),
        });
        let routes = parts.into_iter().flat_map(|part| &part.tcp);
        let routes = routes.filter(|route| route.nets.iter().any(|of| of.trunc() == net));
        routes.cloned().collect()
    }

    /// Changes the routes of a port. A port without any is none.
    fn change(&mut self, port: u16, change: impl FnOnce(&mut PortRoutes)) {
        self.changed = true;
        let ports = &mut Arc::make_mut(&mut self.routes).ports;
        let routes = Arc::make_mut(ports.entry(port).or_default());
        change(routes);
        routes.kind = match (routes.hosts.is_empty(), routes.tls.is_empty()) {
            (false, true) => PortKind::Http,
            (true, _) => PortKind::Tls,
            (false, false) => PortKind::Sniff,
        };
        if routes.hosts.is_empty() && routes.tls.is_empty() && routes.tcp.is_empty() {
            ports.remove(&port);
        }
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
        let tcp = clusters.tcp(service, port, plan);
        let oldest = service.entries.first();
        Part {
            age: oldest
                .filter(|_| !tcp.is_empty())
                .map(|e| Arc::clone(&e.object)),
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

    /// What a port lists by address: as many parts are looked at as list any.
    fn by_address(&self, port: u16) -> ByAddress {
        let (mut hosts, mut tls) = (Vec::new(), Vec::new());
        let from = (port, first_door().1);
        let doors = self.addressed.range(from..);
        for door in doors.take_while(|door| door.0 == port) {
            let Some(of) = self.parts.get(door) else {
                continue;
            };
            if let Some(host) = &of.host {
                let known = of
                    .addresses
                    .iter()
                    .filter(|net| of.as_dialled || net.prefix_len() == net.max_prefix_len());
                hosts.extend(known.map(|net| (*net, Arc::clone(host))));
                if of.anywhere {
                    hosts.extend(everywhere().map(|net| (net, Arc::clone(host))));
                }
            }
            if let Some(name) = &of.own_name {
                tls.extend(of.addresses.iter().map(|net| (*net, Arc::clone(name))));
            }
        }
        ByAddress::new(hosts, tls)
    }
}

/// Every destination of a port's routes, itself included.
fn destinations(plan: &PortPlan) -> impl Iterator<Item = &To> {
    plan.destinations().chain([&plan.own])
}
