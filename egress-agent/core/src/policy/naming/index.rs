//! The index itself, and its update for each policy and each changed service.

use super::addresses::Addresses;
use super::listed::Listed;
use super::pairs::Pairs;
use super::work;
use crate::istio::hosts;
use crate::policy::claims::{UnlistedAddress, transport};
use crate::policy::tables::Transport;
use crate::registry::services::Service;
use crate::registry::view::View;
use egress_ebpf::ids::PolicyId;
use imbl::{HashMap, OrdMap, OrdSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A snapshot of the index.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub(super) addresses: Addresses,
    pub(super) hosts: Hosts,
}

impl Names {
    /// The first service of a policy that lists this port although the port serves nothing.
    pub(in crate::policy) fn first_unspelt(
        &self,
        policy: PolicyId,
        port: u16,
        via: Transport,
    ) -> Option<&Arc<Service>> {
        self.hosts.views.get(&policy)?.first_unspelt(port, via)
    }

    pub(in crate::policy) fn new(addresses: &Addresses, hosts: &Hosts) -> Self {
        Self {
            addresses: addresses.clone(),
            hosts: hosts.clone(),
        }
    }
}

/// The part of the index that comes from rules.
#[derive(Clone, Debug, Default)]
pub(in crate::policy) struct Hosts {
    /// How many policies have each service, by its place in memory. The other maps have the entries of a service once,
    /// even if many policies have it.
    held: HashMap<usize, u32>,
    /// Every host, and how many services it has: policies may have different ones.
    pub(super) every: OrdMap<Arc<str>, u32>,
    /// Hosts of the services that need each name.
    users: Pairs<Arc<str>>,
    pub(super) listed: Listed,
    pub(super) views: OrdMap<PolicyId, Sight>,
    pub(super) unlisted: UnlistedAddress,
}

/// What one policy lists.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    pub(super) services: OrdMap<Arc<str>, Arc<Service>>,
    /// How many of the hosts are wildcards that do not begin a label.
    pub(super) partial: usize,
    /// Hosts by each port that they list but that serves nothing, because it would be open to any address although
    /// nobody wrote so.
    unspelt: OrdSet<(u16, Transport, Arc<str>)>,
}

/// Names that a change of views may have made needed or unneeded.
#[derive(Debug, Default)]
pub(in crate::policy) struct Needs {
    /// Names that a service needs and did not need before.
    pub(in crate::policy) more: BTreeSet<Arc<str>>,
    /// Names that a service no longer needs.
    pub(in crate::policy) fewer: BTreeSet<Arc<str>>,
}

impl Hosts {
    pub(in crate::policy) fn new(unlisted: UnlistedAddress) -> Self {
        Self {
            unlisted,
            ..Self::default()
        }
    }

    /// Adds a policy with this view.
    pub(in crate::policy) fn open(&mut self, policy: PolicyId, view: &View, needs: &mut Needs) {
        self.change(policy, view, view.services.keys(), needs);
    }

    /// Adds a policy with this view. It differs from the view of the policy `other` in these hosts only.
    pub(in crate::policy) fn open_like(
        &mut self,
        (policy, other): (PolicyId, PolicyId),
        view: &View,
        hosts: &BTreeSet<Arc<str>>,
        needs: &mut Needs,
    ) {
        let sight = self.views.get(&other).cloned().unwrap_or_default();
        for service in sight.services.values() {
            self.add(service, needs);
        }
        self.views.insert(policy, sight);
        self.change(policy, view, hosts, needs);
    }

    /// Gives policies other ids.
    pub(in crate::policy) fn rename(&mut self, ids: &BTreeMap<PolicyId, PolicyId>) {
        let named = ids.iter();
        let named: Vec<_> = named
            .filter_map(|(from, to)| Some((*to, self.views.remove(from)?)))
            .collect();
        self.views.extend(named);
    }

    /// Removes a policy.
    pub(in crate::policy) fn close(&mut self, policy: PolicyId, needs: &mut Needs) {
        let Some(sight) = self.views.remove(&policy) else {
            return;
        };
        for service in sight.services.values() {
            self.remove(service, needs);
        }
    }

    /// The services of these hosts changed in a policy.
    pub(in crate::policy) fn change<'a>(
        &mut self,
        policy: PolicyId,
        view: &View,
        hosts: impl IntoIterator<Item = &'a Arc<str>>,
        needs: &mut Needs,
    ) {
        let mut sight = self.views.remove(&policy).unwrap_or_default();
        for host in hosts {
            let (old, new) = (sight.services.get(host), view.services.get(host));
            if let (Some(old), Some(new)) = (old, new)
                && Arc::ptr_eq(old, new)
            {
                continue;
            }
            for at in old.into_iter().flat_map(|s| unspelt_ports(s)) {
                sight.unspelt.remove(&at);
            }
            for at in new.into_iter().flat_map(|s| unspelt_ports(s)) {
                sight.unspelt.insert(at);
            }
            if hosts::is_partial(host) {
                sight.partial =
                    sight.partial + usize::from(new.is_some()) - usize::from(old.is_some());
            }
            if let Some(new) = new {
                self.add(new, needs);
            }
            if let Some(old) = old {
                self.remove(old, needs);
            }
        }
        sight.services = view.services.clone();
        self.views.insert(policy, sight);
    }

    /// One more policy has a service.
    fn add(&mut self, service: &Arc<Service>, needs: &mut Needs) {
        let count = self.held.entry(Arc::as_ptr(service).addr()).or_default();
        *count += 1;
        if *count > 1 {
            return;
        }
        self.listed.add(service);
        *self.every.entry(Arc::clone(&service.host)).or_default() += 1;
        for name in service.lookups() {
            if self.users.add(name, &service.host) {
                needs.more.insert(Arc::clone(name));
            }
        }
    }

    /// One policy less has a service.
    fn remove(&mut self, service: &Arc<Service>, needs: &mut Needs) {
        let place = Arc::as_ptr(service).addr();
        match self.held.get_mut(&place) {
            Some(count) if *count > 1 => {
                *count -= 1;
                return;
            }
            Some(_) => self.held.remove(&place),
            None => return,
        };
        self.listed.remove(service);
        match self.every.get_mut(&service.host) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.every.remove(&service.host)),
        }
        for name in service.lookups() {
            if self.users.remove(name, &service.host) {
                needs.fewer.insert(Arc::clone(name));
            }
        }
    }

    /// Hosts of the services that need a name, sorted.
    pub(in crate::policy) fn users_of(&self, name: &Arc<str>) -> impl Iterator<Item = &Arc<str>> {
        self.users.of(name)
    }

    /// Whether a service needs a name.
    pub(in crate::policy) fn need(&self, name: &Arc<str>) -> bool {
        self.users.has(name)
    }

    /// Every name that a service needs, once.
    pub(in crate::policy) fn needed(&self) -> impl Iterator<Item = &Arc<str>> {
        self.users.keys()
    }
}

fn unspelt_ports(service: &Service) -> impl Iterator<Item = (u16, Transport, Arc<str>)> {
    let ports = service.entries.iter().flat_map(|e| &e.unspelt);
    ports.map(|p| (p.number, transport(p.class), Arc::clone(&service.host)))
}

impl Sight {
    pub(super) fn service(&self, host: &Arc<str>) -> Option<&Arc<Service>> {
        work::note();
        self.services.get(host)
    }

    /// The first service that lists this port although the port serves nothing.
    pub(super) fn first_unspelt(&self, port: u16, via: Transport) -> Option<&Arc<Service>> {
        let from = (port, via, Arc::<str>::default());
        let (number, transport, host) = self.unspelt.range(from..).next()?;
        (*number == port && *transport == via)
            .then(|| self.service(host))
            .flatten()
    }
}
