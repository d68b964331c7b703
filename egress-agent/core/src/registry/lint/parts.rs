//! Findings about parts that a rule needs of other objects: delegates, and the hosts and ports of a `DestinationRule`.

use super::look::{Fields, Lint};
use crate::istio::destination_rule::{DestinationRule, TrafficPolicy};
use crate::istio::{Object, hosts};
use crate::registry::VirtualService;
use crate::registry::services::Service;
use std::sync::Arc;

impl Lint<'_> {
    /// Routes whose delegate cannot be used.
    pub(super) fn delegates(&mut self, rule: &VirtualService) {
        for (index, route) in rule.spec().http.iter().enumerate() {
            let Some(to) = &route.delegate else {
                continue;
            };
            if let Some(why) = self.registry.delegate_problem(to, rule) {
                let at = [("http", Some(index)), ("delegate", None)];
                let text = format!("{why}: requests of this route get 503 (NC)");
                self.warn(&rule.object, &at, text);
            }
        }
    }

    /// A `DestinationRule` for a host that no entry lists, or for a port that no entry of its host has.
    pub(super) fn destination_rule(&mut self, object: &Arc<Object>, spec: &DestinationRule) {
        let (own, domain) = (&object.meta.namespace, &self.registry.domain);
        let host = hosts::full_name(&spec.host, own, domain);
        let covered = self.covered(&host);
        if covered.is_empty() {
            let text = format!("no ServiceEntry lists {host}: this rule has no effect");
            self.warn(object, &[("host", None)], text);
            return;
        }
        if let Some(policy) = &spec.traffic_policy {
            self.ports_of(object, &[], policy, (&host, &covered));
        }
        for (index, subset) in spec.subsets.iter().enumerate() {
            if let Some(policy) = &subset.traffic_policy {
                let at = [("subsets", Some(index))];
                self.ports_of(object, &at, policy, (&host, &covered));
            }
        }
    }

    /// `portLevelSettings` of ports that no service has. `at` leads to what has the policy.
    fn ports_of(
        &mut self,
        object: &Arc<Object>,
        at: &Fields,
        policy: &TrafficPolicy,
        (host, covered): (&str, &[Service]),
    ) {
        for (index, settings) in policy.port_level_settings.iter().enumerate() {
            let Some(number) = settings.port.as_ref().map(|port| port.number) else {
                continue;
            };
            let port = u16::try_from(number).ok();
            let has = |service: &Service| port.is_some_and(|port| service.class(port).is_some());
            if covered.iter().any(has) {
                continue;
            }
            let mut at = at.to_vec();
            at.extend([
                ("trafficPolicy", None),
                ("portLevelSettings", Some(index)),
                ("port", None),
            ]);
            let text = format!(
                "no ServiceEntry lists port {number} of {host}: these settings have no effect"
            );
            self.warn(object, &at, text);
        }
    }
}
