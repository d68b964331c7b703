//! Which hosts get addresses from the agent, as objects come and go.
//!
//! `vips` chooses the addresses. `view` decides which workloads dial them.

use super::services::{Entry, network};
use super::touched::{Touched, What};
use super::vips::Vips;
use super::{Registry, by_age};
use crate::istio::hosts;
use crate::istio::service_entry::ServiceEntry;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

impl Registry {
    /// Whether the agent gives addresses to hosts.
    pub(super) const fn allocates(&self) -> bool {
        self.vips.is_some()
    }

    /// How many hosts have or had allocated addresses, and the most that can have some: none if the agent allocates none.
    pub fn allocated_in_use(&self) -> (usize, usize) {
        self.vips.as_ref().map(Vips::in_use).unwrap_or_default()
    }

    /// The addresses that the agent gave a host; none if it gave it none.
    pub(super) fn allocated(&self, host: &str) -> Vec<IpNet> {
        let vips = self.vips.as_ref();
        vips.map_or_else(Vec::new, |vips| vips.of(host))
    }

    /// Notes the addresses that an entry writes down. A host that the agent gave one of them gets another.
    pub(super) fn write_down(&mut self, spec: &ServiceEntry, touched: &mut Touched) {
        let Some(vips) = &mut self.vips else {
            return;
        };
        for net in spec.addresses.iter().filter_map(|a| network(a)) {
            let Some(host) = vips.write(&net) else {
                continue;
            };
            for entry in self.entries.get(&host).into_iter().flatten() {
                touched.add(What::Services, &entry.object, vec![Arc::clone(&host)]);
            }
        }
    }

    /// Notes that an entry no longer writes down its addresses.
    pub(super) fn erase(&mut self, spec: &ServiceEntry) {
        let nets = spec.addresses.iter().filter_map(|a| network(a));
        if let Some(vips) = &mut self.vips {
            nets.for_each(|net| vips.erase(&net));
        }
    }

    /// Gives addresses to those of these hosts that may have some, and takes those of the others. The oldest host
    /// chooses first, so that agents that read the same rules at once give the same addresses.
    pub(super) fn allocate(&mut self, hosts: impl Iterator<Item = Arc<str>>) {
        let Some(mut vips) = self.vips.take() else {
            return;
        };
        let (mut asking, mut others) = (Vec::new(), Vec::new());
        for host in hosts {
            match self.asking(&host) {
                Some(entry) => asking.push((entry, host)),
                None => others.push(host),
            }
        }
        asking.sort_by(|(a, one), (b, other)| {
            by_age(&a.object, &b.object).then_with(|| one.cmp(other))
        });
        for (_, host) in &asking {
            vips.give(host);
        }
        // Afterwards, so that no host of this update gets them.
        for host in &others {
            vips.release(host);
        }
        self.vips = Some(vips);
    }

    /// [`Self::allocate`] for every host.
    pub(super) fn allocate_all(&mut self) {
        let Some(vips) = &self.vips else {
            return;
        };
        let all: BTreeSet<_> = self.entries.keys().chain(vips.hosts()).cloned().collect();
        self.allocate(all.into_iter());
    }

    /// The oldest entry for which a host may have allocated addresses. Names of the cluster's domain have none, because
    /// the cluster's DNS answers for them.
    fn asking(&self, host: &str) -> Option<&Arc<Entry>> {
        let of_cluster = host.strip_suffix(&*self.domain);
        let is_name = !hosts::is_wildcard(host)
            && host.parse::<IpAddr>().is_err()
            && of_cluster.is_none_or(|before| !before.ends_with('.'));
        let nameless = |e: &Entry| e.ports.iter().any(|p| p.class.may_be_nameless());
        let mut entries = self.entries.get(host).filter(|_| is_name)?.iter();
        entries.find(|e| e.may_have_allocated() && nameless(e))
    }
}
