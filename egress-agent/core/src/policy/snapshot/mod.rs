//! The proxy's snapshot of one policy: the plans of services joined with their addresses.
//!
//! Owns what a change rebuilds: an answer or a rule rebuilds its own hosts only, not the others of a port. `registry`
//! decides which route applies.

mod clusters;
mod part;

use super::endpoints::cluster;
use super::leases::Leases;
use crate::registry::by_age;
use crate::registry::plan::{HostPlan, PortPlan, To};
use crate::registry::view::View;
use crate::routing::{ByAddress, Cluster, PolicyRoutes, PortKind, PortRoutes, Rank, TcpRoute};
use crate::sharing::{share, share_set};
use crate::traffic::ClusterId;
use clusters::Clusters;
use imbl::{OrdMap, OrdSet};
use ipnet::IpNet;
use part::{Door, Part, door, first_door};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Stands for flows that nothing lists, of any port. No service lists it.
const NO_PORT: u16 = 0;

/// The routes of one policy as they are built. A copy shares unchanged parts.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    clusters: OrdMap<Arc<To>, Arc<Cluster>>,
    /// Each destination with every door that leads to it.
    users: OrdSet<(Arc<To>, Door)>,
    parts: OrdMap<Door, Arc<Part>>,
    /// Doors with hosts or server names that are found by address.
    addressed: OrdSet<Door>,
    /// Doors with routes for bytes, by network.
    networks: OrdSet<(IpNet, Door)>,
    /// Parts to rebuild.
    stale: BTreeSet<Door>,
    /// Ports whose lists of addresses are to be rebuilt.
    stale_addresses: BTreeSet<u16>,
    /// Where flows go that nothing lists. `users` has it at [`NO_PORT`].
    unlisted: Option<Arc<To>>,
    /// `routes` has changed since it was last given out.
    changed: bool,
    routes: Arc<PolicyRoutes>,
}

impl Snapshot {
    /// The snapshot of a view, with every port still to be built. `passthrough` and `audit` as in [`PolicyRoutes`].
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
        new.lead_unlisted(view, leases);
        new
    }

    /// Sets the passed networks, and whether the policy audits.
    pub fn pass(&mut self, passthrough: Vec<IpNet>, audit: bool) {
        self.changed = true;
        let routes = Arc::make_mut(&mut self.routes);
        routes.passthrough = passthrough.into();
        routes.audit = audit;
    }

    /// The routes of a host changed; `old` is its former plan.
    pub fn replan(&mut self, host: &Arc<str>, old: &HostPlan, view: &View, leases: &Leases) {
        for (port, plan) in old.iter() {
            let door = door(port, host);
            for to in destinations(plan) {
                self.unused(to, &door);
            }
            self.stale.remove(&door);
            self.put(&door, None);
        }
        for (port, plan) in view
            .plans
            .get(host)
            .into_iter()
            .flat_map(|plan| plan.iter())
        {
            let door = door(port, host);
            for to in destinations(plan) {
                self.users.insert((self.known(to), door.clone()));
            }
            self.stale.insert(door);
        }
        self.relocate(host, view, leases);
    }

    /// Flows that nothing lists go where the view says.
    pub fn lead_unlisted(&mut self, view: &View, leases: &Leases) {
        if self.unlisted.as_deref() == view.unlisted.as_ref() {
            return;
        }
        self.changed = true;
        if let Some(old) = self.unlisted.take() {
            self.unused(&old, &door(NO_PORT, &old.id.host));
        }
        if let Some(to) = &view.unlisted {
            let known = self.known(to);
            let host = &to.id.host;
            self.users.insert((Arc::clone(&known), door(NO_PORT, host)));
            self.unlisted = Some(known);
            self.relocate(host, view, leases);
        }
    }

    /// A door does not lead to a destination any longer.
    fn unused(&mut self, to: &To, door: &Door) {
        let user = (Arc::new(to.clone()), door.clone());
        if !self.users.contains(&user) {
            return;
        }
        self.users.remove(&user);
        if self.doors_to(to).next().is_none() && self.clusters.contains_key(to) {
            self.clusters.remove(to);
        }
    }

    /// The same destination as the one in `clusters`, if it is there, so that they share memory.
    fn known(&self, to: &To) -> Arc<To> {
        let known = self.clusters.get_key_value(to);
        known.map_or_else(|| Arc::new(to.clone()), |(known, _)| Arc::clone(known))
    }

    fn doors_to(&self, to: &To) -> impl Iterator<Item = &Door> {
        let from = (Arc::new(to.clone()), first_door());
        let same = self
            .users
            .range(from..)
            .take_while(move |(t, _)| **t == *to);
        same.map(|(_, door)| door)
    }

    /// The addresses of a service changed, or the service itself.
    pub fn relocate(&mut self, host: &Arc<str>, view: &View, leases: &Leases) {
        let service = view.services.get(host).map(AsRef::as_ref);
        let first = To {
            id: ClusterId::new(Arc::clone(host), 0),
            ..To::default()
        };
        let uses = self.users.range((Arc::new(first), first_door())..);
        let mut made: Option<(&Arc<To>, bool)> = None;
        for (to, door) in uses.take_while(|(to, _)| to.id.host == *host) {
            let changed = match made {
                Some((held, changed)) if held == to => changed,
                _ => {
                    let cluster = cluster(service, to, leases);
                    let changed = self.clusters.get(to).is_none_or(|held| **held != cluster);
                    if changed {
                        self.clusters.insert(Arc::clone(to), Arc::new(cluster));
                    }
                    changed
                }
            };
            made = Some((to, changed));
            if changed {
                self.stale.insert(door.clone());
            }
        }
        // Routes for bytes without a name depend on the addresses.
        for (port, plan) in view
            .plans
            .get(host)
            .into_iter()
            .flat_map(|plan| plan.iter())
        {
            if plan.opaque || !plan.tcp.is_empty() {
                self.stale.insert(door(port, host));
            }
        }
    }

    /// Shares the parts that are equal in another snapshot.
    pub fn share(&mut self, other: &Self) {
        share(&mut self.clusters, &other.clusters);
        share_set(&mut self.users, &other.users);
        share(&mut self.parts, &other.parts);
        share_set(&mut self.addressed, &other.addressed);
        share_set(&mut self.networks, &other.networks);
        Arc::make_mut(&mut self.routes).share(&other.routes);
    }

    /// Whether [`Self::routes`] may differ from the last call.
    pub fn is_stale(&self) -> bool {
        self.changed || !self.stale.is_empty()
    }

    /// The routes as they are.
    pub fn routes(&mut self, view: &View, leases: &Leases) -> Arc<PolicyRoutes> {
        self.settle(view, leases);
        self.changed = false;
        Arc::clone(&self.routes)
    }

    /// Rebuilds all stale parts. Call it before you copy the snapshot, so that the copy shares them.
    pub fn settle(&mut self, view: &View, leases: &Leases) {
        for door in std::mem::take(&mut self.stale) {
            let host = &door.1.2;
            let plan = view.plans.get(host).and_then(|p| p.get(door.0));
            if let (Some(plan), Some(service)) = (plan, view.services.get(host)) {
                let mut clusters = Clusters {
                    known: &mut self.clusters,
                    view,
                    leases,
                };
                let part = Part::new(service, door.0, plan, &mut clusters);
                self.put(&door, Some(part));
            }
        }
        for port in std::mem::take(&mut self.stale_addresses) {
            let addresses = self.by_address(port);
            self.change(port, |routes| routes.addresses = addresses);
        }
        let unlisted = self.unlisted.as_ref().and_then(|to| self.clusters.get(to));
        if self.routes.unlisted.as_ref() != unlisted {
            Arc::make_mut(&mut self.routes).unlisted = unlisted.cloned();
        }
    }

    /// Replaces a part.
    fn put(&mut self, door: &Door, new: Option<Part>) {
        let (number, (.., host)) = door;
        let (number, host) = (*number, Arc::clone(host));
        let old = self.parts.get(door).cloned();
        if old.is_none() && new.is_none() {
            return;
        }
        let networks = |of: Option<&Part>| -> BTreeSet<IpNet> {
            of.into_iter().flat_map(Part::networks).collect()
        };
        let (left, came) = (networks(old.as_deref()), networks(new.as_ref()));
        let was_addressed = old.as_ref().is_some_and(|of| of.is_addressed());
        let is_addressed = new.as_ref().is_some_and(Part::is_addressed);
        if was_addressed || is_addressed {
            self.stale_addresses.insert(number);
        }
        if was_addressed && !is_addressed {
            self.addressed.remove(door);
        } else if is_addressed && !was_addressed {
            self.addressed.insert(door.clone());
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
        match new {
            Some(new) => self.parts.insert(door.clone(), Arc::new(new)),
            None => self.parts.remove(door),
        };
        for net in left.difference(&came) {
            self.networks.remove(&(*net, door.clone()));
        }
        let more = came.difference(&left);
        self.networks.extend(more.map(|net| (*net, door.clone())));
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
        let parts = doors.filter_map(|(_, door)| self.parts.get(door));
        let mut parts: Vec<&Arc<Part>> = parts.collect();
        parts.sort_by(|a, b| match (&a.age, &b.age) {
            (Some(a), Some(b)) => by_age(&a.0, &b.0),
            (a, b) => a.is_none().cmp(&b.is_none()),
        });
        let routes = parts.into_iter().flat_map(|part| &part.tcp);
        let routes = routes.filter(|route| route.nets.binary_search(&net).is_ok());
        routes.cloned().collect()
    }

    /// Changes the routes of a port, and removes a port without any.
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

    /// What a port lists by address. It visits only the parts that list any.
    fn by_address(&self, port: u16) -> ByAddress {
        let (mut hosts, mut tls) = (Vec::new(), Vec::new());
        let from = (port, first_door().1);
        let doors = self.addressed.range(from..);
        for door in doors.take_while(|door| door.0 == port) {
            if let Some(part) = self.parts.get(door) {
                hosts.extend(part.hosts_by_address());
                tls.extend(part.names_by_address());
            }
        }
        ByAddress::new(hosts, tls)
    }
}

/// Every destination of a port's routes, itself included.
fn destinations(plan: &PortPlan) -> impl Iterator<Item = &To> {
    plan.destinations().chain([&plan.own])
}
