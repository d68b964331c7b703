//! Findings about destinations that no rule defines.

use super::look::{Fields, Lint};
use crate::istio::fields::Destination;
use crate::istio::sidecar::Sidecar;
use crate::istio::{Object, hosts};
use crate::registry::VirtualService;
use crate::registry::scope::Scope;
use std::sync::Arc;

impl Lint<'_> {
    /// Destinations that are not registered.
    pub(super) fn destinations(&mut self, rule: &VirtualService) {
        let (object, spec) = (&rule.object, rule.spec());
        let http = spec.http.iter().enumerate().flat_map(|(n, r)| {
            r.route
                .iter()
                .enumerate()
                .map(move |(m, d)| ("http", n, m, &d.destination))
        });
        let tls = spec.tls.iter().enumerate().flat_map(|(n, r)| {
            r.route
                .iter()
                .enumerate()
                .map(move |(m, d)| ("tls", n, m, &d.destination))
        });
        let tcp = spec.tcp.iter().enumerate().flat_map(|(n, r)| {
            r.route
                .iter()
                .enumerate()
                .map(move |(m, d)| ("tcp", n, m, &d.destination))
        });
        let routes = http.chain(tls).chain(tcp);
        let routes = routes.map(|(kind, route, place, to)| {
            let denied = if kind == "http" {
                "gets 503 (NC)"
            } else {
                "is closed"
            };
            let at = vec![
                (kind, Some(route)),
                ("route", Some(place)),
                ("destination", None),
            ];
            (at, to, denied)
        });
        let mirrors = spec.http.iter().enumerate().flat_map(|(n, r)| {
            let one = (vec![("http", Some(n)), ("mirror", None)], &r.mirror);
            let several = r.mirrors.iter().enumerate().map(move |(m, mirror)| {
                let at = vec![
                    ("http", Some(n)),
                    ("mirrors", Some(m)),
                    ("destination", None),
                ];
                (at, &mirror.destination)
            });
            std::iter::once(one).chain(several)
        });
        let mirrors = mirrors.map(|(at, to)| (at, to, "gets no copy"));
        for (at, to, otherwise) in routes.chain(mirrors) {
            if let Some(to) = to {
                self.destination(object, &at, to, &format!("this destination {otherwise}"));
            }
        }
    }

    /// The egress proxy of a Sidecar, if it is not registered.
    pub(super) fn egress_proxy(&mut self, object: &Arc<Object>, spec: &Sidecar) {
        let outbound = spec.outbound_traffic_policy.as_ref();
        let Some(to) = outbound.and_then(|policy| policy.egress_proxy.as_ref()) else {
            return;
        };
        let at = [("outboundTrafficPolicy", None), ("egressProxy", None)];
        self.destination(object, &at, to, "TCP that no rule lists is denied");
    }

    /// A destination that is not registered. `otherwise` says what happens then.
    pub(super) fn destination(
        &mut self,
        object: &Arc<Object>,
        at: &Fields,
        to: &Destination,
        otherwise: &str,
    ) {
        let host = hosts::full_name(&to.host, &object.meta.namespace, &self.registry.domain);
        let Some(service) = self.service_of(&host) else {
            let text = format!("no ServiceEntry lists {host}: {otherwise}");
            self.warn(object, at, text);
            return;
        };
        let port = to.port.as_ref().map(|p| p.number);
        if let Some(port) = port
            && u16::try_from(port)
                .ok()
                .and_then(|p| service.class(p))
                .is_none()
        {
            let text = format!("{host} has no port {port}: {otherwise}");
            self.warn(object, at, text);
        }
        let namespace = service
            .entries
            .first()
            .map_or("", |e| &e.object.meta.namespace);
        let scope = Scope::everything();
        let missing = || {
            self.registry
                .subset(&host, namespace, &to.subset, &scope)
                .is_none()
        };
        if !to.subset.is_empty() && missing() {
            let text = format!("no DestinationRule defines subset {} of {host}", to.subset);
            self.warn(object, at, text);
        }
    }
}
