//! The proxy's snapshot of one policy: plans of services joined with where these are.
//!
//! Owns which ports must be put together anew after a change, so that one answer costs one port
//! and not all. Does not decide which route applies: `registry` did.

use super::claims;
use super::leases::Leases;
use crate::registry::hosts;
use crate::registry::routes::{HttpPlan, To};
use crate::registry::view::View;
use crate::routing::{
    Cluster, HttpRoute, PolicyRoutes, PortKind, PortRoutes, TlsRoute, VirtualHost,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The routes of one policy as they are built.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    clusters: BTreeMap<To, Arc<Cluster>>,
    /// Hosts with a plan on each port, the most specific first.
    hosts: BTreeMap<u16, Vec<Arc<str>>>,
    /// Ports whose routes lead to a service's host.
    leading_to: BTreeMap<Arc<str>, BTreeSet<u16>>,
    stale: BTreeSet<u16>,
    routes: Arc<PolicyRoutes>,
}

impl Snapshot {
    /// Of a view, with every port still to be built.
    pub fn new(view: &View, leases: &Leases) -> Self {
        let mut new = Self::default();
        for (host, plan) in &view.plans {
            for (port, plan) in plan {
                new.hosts.entry(*port).or_default().push(Arc::clone(host));
                new.stale.insert(*port);
                let own = To {
                    host: Arc::clone(host),
                    port: *port,
                };
                let http = plan.http.iter().flatten().map(|r| &r.to);
                let tls = plan.tls.iter().map(|r| &r.to);
                for to in http.chain(tls).chain(plan.own_name.then_some(&own)) {
                    new.leading_to
                        .entry(Arc::clone(&to.host))
                        .or_default()
                        .insert(*port);
                }
            }
        }
        for hosts in new.hosts.values_mut() {
            hosts.sort_by(|a, b| hosts::specificity(a).cmp(&hosts::specificity(b)));
        }
        for host in view.services.keys() {
            new.relocate(host, view, leases);
        }
        new
    }

    /// A service's names have other addresses.
    pub fn relocate(&mut self, host: &Arc<str>, view: &View, leases: &Leases) {
        let (Some(service), Some(ports)) = (view.services.get(host), self.leading_to.get(host))
        else {
            return;
        };
        for (port, cluster) in claims::clusters(service, leases) {
            let to = To {
                host: Arc::clone(host),
                port,
            };
            if self
                .clusters
                .get(&to)
                .is_none_or(|held| !same(held, &cluster))
            {
                self.clusters.insert(to, Arc::new(cluster));
                self.stale.extend(ports);
            }
        }
    }

    /// Whether [`Self::routes`] would give something else than before.
    pub fn is_stale(&self) -> bool {
        !self.stale.is_empty()
    }

    /// The routes as they are.
    pub fn routes(&mut self, view: &View) -> Arc<PolicyRoutes> {
        if self.is_stale() {
            let mut routes = PolicyRoutes::clone(&self.routes);
            for port in std::mem::take(&mut self.stale) {
                routes.ports.insert(port, self.port(port, view));
            }
            self.routes = Arc::new(routes);
        }
        Arc::clone(&self.routes)
    }

    fn port(&self, port: u16, view: &View) -> PortRoutes {
        let (mut hosts, mut tls, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for host in self.hosts.get(&port).into_iter().flatten() {
            let Some(plan) = view.plans.get(host).and_then(|p| p.get(&port)) else {
                continue;
            };
            if let Some(routes) = &plan.http {
                let routes = routes.iter().map(|r| self.http(r)).collect();
                hosts.push(VirtualHost {
                    host: host.to_string(),
                    routes,
                });
            }
            for route in plan.tls.iter().filter(|r| !r.sni_hosts.is_empty()) {
                let cluster = self.cluster(&route.to);
                tls.push(TlsRoute {
                    sni_hosts: route.sni_hosts.clone(),
                    cluster,
                });
            }
            if plan.own_name {
                let cluster = self.cluster(&To {
                    host: Arc::clone(host),
                    port,
                });
                own.push(TlsRoute {
                    sni_hosts: vec![host.to_string()],
                    cluster,
                });
            }
        }
        tls.append(&mut own);
        let kind = match (hosts.is_empty(), tls.is_empty()) {
            (false, true) => PortKind::Http,
            (true, _) => PortKind::Tls,
            (false, false) => PortKind::Sniff,
        };
        PortRoutes {
            kind,
            hosts,
            tls,
            ..PortRoutes::default()
        }
    }

    fn http(&self, route: &HttpPlan) -> HttpRoute {
        HttpRoute {
            cluster: self.cluster(&route.to),
            timeout: route.timeout,
        }
    }

    /// A destination that is not registered has no address: nothing is dialled.
    fn cluster(&self, to: &To) -> Arc<Cluster> {
        self.clusters.get(to).map_or_else(
            || {
                let (host, port) = (to.host.to_string(), to.port);
                Arc::new(Cluster {
                    host,
                    port,
                    endpoints: Vec::new(),
                    original_dst: None,
                })
            },
            Arc::clone,
        )
    }
}

fn same(a: &Cluster, b: &Cluster) -> bool {
    a.endpoints == b.endpoints && a.original_dst == b.original_dst
}
