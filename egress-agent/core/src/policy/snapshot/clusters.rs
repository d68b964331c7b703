//! Routes of a plan with their present destinations.

use crate::policy::endpoints::{cluster, doors, upstream_protocol};
use crate::policy::leases::Leases;
use crate::registry::plan::{self, HttpPlan, PortPlan, Shares, To};
use crate::registry::services::{Class, Service};
use crate::registry::view::View;
use crate::routing::{Cluster, HttpRoute, Mirror, Share, Split, TcpRoute};
use imbl::OrdMap;
use ipnet::IpNet;
use std::sync::Arc;

/// The present destinations.
pub(super) struct Clusters<'a> {
    pub(super) known: &'a mut OrdMap<Arc<To>, Arc<Cluster>>,
    pub(super) view: &'a View,
    pub(super) leases: &'a Leases,
}

impl Clusters<'_> {
    /// A destination.
    pub(super) fn of(&mut self, to: &To) -> Arc<Cluster> {
        if let Some(known) = self.known.get(to) {
            return Arc::clone(known);
        }
        let service = self.view.services.get(&to.id.host);
        let made = Arc::new(cluster(service.map(AsRef::as_ref), to, self.leases));
        self.known.insert(Arc::new(to.clone()), Arc::clone(&made));
        made
    }

    /// Destinations by weight.
    pub(super) fn split(&mut self, shares: &Shares) -> Split {
        let share = |share: &plan::Share| Share {
            weight: share.weight,
            cluster: self.of(&share.to),
            headers: share.headers.clone(),
        };
        shares.iter().map(share).collect::<Vec<_>>().into()
    }

    fn mirrors(&mut self, mirrors: &[plan::Mirror]) -> Vec<Mirror> {
        let mirror = |mirror: &plan::Mirror| Mirror {
            cluster: self.of(&mirror.to),
            share: mirror.share,
        };
        mirrors.iter().map(mirror).collect()
    }

    /// One HTTP route.
    pub(super) fn http(&mut self, route: &HttpPlan) -> Arc<HttpRoute> {
        Arc::new(HttpRoute {
            matches: route.matches.clone(),
            action: route
                .action
                .as_ref()
                .map_err(Clone::clone)
                .and_then(|action| {
                    action.try_map(|to| Ok(self.split(to).mirrored(self.mirrors(&route.mirrors))))
                }),
            policy: Arc::clone(&route.policy),
        })
    }

    /// Routes for bytes without a name.
    pub(super) fn tcp(
        &mut self,
        service: &Service,
        port: u16,
        plan: &PortPlan,
    ) -> Vec<Arc<TcpRoute>> {
        let mut routes = Vec::new();
        if plan.tcp.is_empty() && !plan.opaque {
            return routes;
        }
        let sniffed = service.class(port) == Some(Class::Sniffed);
        let mut add = |nets: Vec<IpNet>, to: Split| {
            let mut nets: Vec<IpNet> = nets.iter().map(IpNet::trunc).collect();
            nets.sort_unstable();
            nets.dedup();
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
        if plan.opaque && plan.own.policy.chooses_endpoint() {
            let nets = [doors.endpoints, doors.others].concat();
            add(nets, Split::one(self.of(&plan.own)));
        } else if plan.opaque {
            // The dialled address itself, as if no name were listed beside it and the kernel allowed the flow.
            let straight = Cluster {
                id: plan.own.id.clone(),
                original_dst: Some(port),
                protocol: upstream_protocol(service, port, &plan.own.policy),
                policy: Arc::clone(&plan.own.policy),
                ..Cluster::default()
            };
            add(doors.endpoints, Split::one(Arc::new(straight)));
            add(doors.others, Split::one(self.of(&plan.own)));
        }
        routes
    }
}
