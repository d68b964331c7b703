//! The services that a policy lists for a name that a workload asks for.

use super::index::{Hosts, Names, Sight};
use crate::istio::hosts::{self, ends};
use crate::registry::services::Service;
use egress_ebpf::addr::Addr;
use egress_ebpf::ids::PolicyId;
use std::net::IpAddr;
use std::sync::Arc;

/// The most names of one address that are considered.
const LOOKED_AT: usize = 64;

impl Names {
    /// The services of a policy whose host is this name or a wildcard over it, the most specific first. `name` is in
    /// canonical form.
    pub fn listing(&self, policy: PolicyId, name: &str) -> Vec<&Arc<Service>> {
        let sight = self.hosts.views.get(&policy);
        sight.map_or_else(Vec::new, |sight| sight.listing(name))
    }

    /// Whether a policy lists a name.
    pub fn lists(&self, policy: PolicyId, name: &str) -> bool {
        let sight = self.hosts.views.get(&policy);
        sight.is_some_and(|sight| sight.find(name, Some).is_some())
    }

    /// Whether every policy lists the same services as in another snapshot, found by their places in memory.
    pub fn lists_as(&self, other: &Self) -> bool {
        self.hosts.views.ptr_eq(&other.hosts.views)
    }

    /// Names that lease this address, as far as a policy lists them; sorted.
    pub fn leased_by(&self, policy: PolicyId, addr: IpAddr) -> Vec<&Arc<str>> {
        let names = self.addresses.names_of(Addr::from(addr).canonical());
        let names = names.take(LOOKED_AT);
        names.filter(|name| self.lists(policy, name)).collect()
    }
}

impl Hosts {
    /// The hosts that list a name, of all policies.
    pub(in crate::policy) fn covering(&self, name: &str) -> impl Iterator<Item = &Arc<str>> {
        let patterns = hosts::patterns(name);
        patterns.filter_map(|pattern| Some(self.every.get_key_value(&*pattern)?.0))
    }

    /// The first policy that lists a name, and its hosts that do, the most specific first.
    pub(in crate::policy) fn listing(&self, name: &str) -> Option<(PolicyId, Vec<Arc<str>>)> {
        self.views.iter().find_map(|(policy, sight)| {
            let services = sight.listing(name);
            let hosts: Vec<_> = services.iter().map(|s| Arc::clone(&s.host)).collect();
            (!hosts.is_empty()).then_some((*policy, hosts))
        })
    }
}

impl Sight {
    fn listing(&self, name: &str) -> Vec<&Arc<Service>> {
        let mut found = Vec::new();
        self.find(name, |service| {
            found.push(service);
            None::<()>
        });
        found
    }

    /// The first result of `take` for a service that lists the name, the most specific first.
    fn find<'a, R>(
        &'a self,
        name: &str,
        mut take: impl FnMut(&'a Arc<Service>) -> Option<R>,
    ) -> Option<R> {
        // A client's name is never a pattern.
        if name.is_empty() || hosts::is_wildcard(name) {
            return None;
        }
        if let Some(found) = self.services.get(name).and_then(&mut take) {
            return Some(found);
        }
        self.services.range::<_, str>(hosts::WILDCARDS).next()?;
        let mut wildcard = String::with_capacity(name.len() + 1);
        let partial = self.partial > 0;
        let ends = ends(name).filter(|end| partial || end.is_empty() || end.starts_with('.'));
        ends.into_iter().find_map(|end| {
            wildcard.clear();
            wildcard.push('*');
            wildcard.push_str(end);
            self.services.get(&*wildcard).and_then(&mut take)
        })
    }
}
