//! One policy: a view, its services' claims on the table, and the proxy's routes.

use super::Settings;
use crate::policy::claims::{UnlistedAddress, claims, targets_at};
use crate::policy::leases::{Among, Leases};
use crate::policy::ledger::Ledger;
use crate::policy::snapshot::Snapshot;
use crate::policy::tables::{Claims, Delta, Transport};
use crate::registry::plan::HostPlan;
use crate::registry::scope::Scope;
use crate::registry::services::Service;
use crate::registry::view::View;
use crate::sharing::share;
use imbl::OrdMap;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What is done with an unlisted destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unlisted {
    /// It is denied.
    #[default]
    Denied,
    /// It passes and is recorded: the policy audits.
    Recorded,
    /// It passes: `ALLOW_ANY`.
    Passes,
}

/// The properties that the workloads of one policy share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    /// What they see.
    pub(super) scope: Scope,
    /// Nothing is denied to them; flows that would be denied are recorded.
    pub(super) audit: bool,
}

/// One policy: what its workloads see. A copy shares unchanged parts.
#[derive(Clone, Debug, Default)]
pub(in crate::policy) struct PolicyState {
    pub(in crate::policy) view: View,
    pub(in crate::policy) audit: bool,
    /// The claims of each service in the ledger.
    claims: OrdMap<Arc<str>, Arc<Claims>>,
    pub(super) ledger: Ledger,
    pub(super) snapshot: Snapshot,
    pub(in crate::policy) allow_any: bool,
}

impl PolicyState {
    /// From a view, with the present addresses of its names.
    pub(super) fn new(view: View, audit: bool, settings: &Settings, leases: &Leases) -> Self {
        let allow_any = settings.allows_any(&view.scope);
        let passthrough = settings.passthrough(&view.scope);
        let snapshot = Snapshot::new(&view, leases, passthrough, audit);
        let mut policy = Self {
            view,
            audit,
            snapshot,
            allow_any,
            ..Self::default()
        };
        let standing = settings.claims(&policy.view.scope);
        policy.ledger.replace(&Claims::new(), &standing);
        let hosts: Vec<_> = policy.view.services.keys().cloned().collect();
        for host in hosts {
            policy.reclaim(&host, leases, settings.unlisted_address);
        }
        policy
    }

    /// A copy of this policy with another `view`. Its plans differ for some hosts; `old` has the plans of this policy
    /// for these hosts.
    pub(super) fn like(
        &mut self,
        view: View,
        audit: bool,
        old: BTreeMap<Arc<str>, Arc<HostPlan>>,
        settings: &Settings,
        leases: &Leases,
    ) -> Self {
        self.snapshot.settle(&self.view, leases);
        let mut policy = Self {
            audit,
            allow_any: settings.allows_any(&view.scope),
            view,
            ..self.clone()
        };
        let (was, is) = (&self.view.scope, &policy.view.scope);
        policy.snapshot.pass(settings.passthrough(is), audit);
        let (was, is) = (settings.claims(was), settings.claims(is));
        policy.ledger.replace(&was, &is);
        policy.replan(old, leases, settings.unlisted_address);
        policy
    }

    /// Replaces the entries of the settings, whose internal ranges changed.
    pub(super) fn pass(&mut self, old: &Settings, new: &Settings) -> Delta {
        let scope = &self.view.scope;
        self.snapshot.pass(new.passthrough(scope), self.audit);
        self.ledger.replace(&old.claims(scope), &new.claims(scope))
    }

    /// Updates the policy after a change of its view. `old` has the former plans of the changed hosts; their services
    /// may have changed too.
    pub(super) fn replan(
        &mut self,
        old: BTreeMap<Arc<str>, Arc<HostPlan>>,
        leases: &Leases,
        unlisted: UnlistedAddress,
    ) -> Delta {
        let mut delta = Delta::new();
        for (host, old) in old {
            self.snapshot.replan(&host, &old, &self.view, leases);
            delta.extend(self.reclaim(&host, leases, unlisted));
        }
        self.snapshot.lead_unlisted(&self.view, leases);
        delta
    }

    /// Shares the parts that are equal in another policy.
    pub(super) fn share(&mut self, other: &Self) {
        self.view.share(&other.view);
        share(&mut self.claims, &other.claims);
        self.ledger.share(&other.ledger);
        self.snapshot.share(&other.snapshot);
    }

    /// What is done with unlisted destinations.
    pub(super) fn unlisted(&self) -> Unlisted {
        match (self.allow_any, self.audit) {
            (true, _) => Unlisted::Passes,
            (false, true) => Unlisted::Recorded,
            (false, false) => Unlisted::Denied,
        }
    }

    /// Whether it is the policy of a kind.
    pub(super) fn is_of(&self, kind: &Kind) -> bool {
        self.audit == kind.audit && self.view.scope == kind.scope
    }

    /// The kind of its workloads.
    pub(super) fn kind(&self) -> Kind {
        Kind {
            scope: self.view.scope.clone(),
            audit: self.audit,
        }
    }

    /// Services that claim a destination.
    pub(in crate::policy) fn covering(
        &self,
        ip: IpAddr,
        port: u16,
        via: Transport,
    ) -> Vec<&Arc<Service>> {
        let targets = self.ledger.covering(ip.into(), port, via);
        if targets.is_empty() {
            return Vec::new();
        }
        let claimed = self.claims.iter();
        let hosts = claimed.filter(|(_, c)| targets.iter().any(|t| c.contains_key(t)));
        hosts
            .filter_map(|(host, _)| self.view.services.get(host))
            .collect()
    }

    /// The desired content of the kernel's table.
    pub(in crate::policy) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Services with this port whose addresses come from DNS.
    pub(in crate::policy) fn by_name(&self, port: u16) -> impl Iterator<Item = &Arc<Service>> {
        let services = self.view.services.values();
        services.filter(move |s| s.class(port).is_some() && s.lookups().next().is_some())
    }

    /// Updates a host's claims in the ledger. A host that is not visible claims nothing.
    pub(super) fn reclaim(
        &mut self,
        host: &Arc<str>,
        leases: &Leases,
        unlisted: UnlistedAddress,
    ) -> Delta {
        let found = self.view.services.get(host).zip(self.view.plans.get(host));
        let new =
            found.map(|(service, plan)| claims(service, plan, (leases, Among::All), unlisted));
        let new = new.unwrap_or_default();
        let old = self.claims.get(host).cloned().unwrap_or_default();
        if *old == new {
            return Delta::new();
        }
        if new.is_empty() {
            self.claims.remove(host);
            return self.ledger.replace(&old, &new);
        }
        let delta = self.ledger.replace(&old, &new);
        self.claims.insert(Arc::clone(host), Arc::new(new));
        delta
    }

    /// Updates a host's claims on these addresses, whose leases came or went. Other addresses of the host cost nothing.
    pub(super) fn relocate(
        &mut self,
        host: &Arc<str>,
        addresses: &BTreeSet<IpAddr>,
        leases: &Leases,
        unlisted: UnlistedAddress,
    ) -> Delta {
        self.snapshot.relocate(host, &self.view, leases);
        let found = self.view.services.get(host).zip(self.view.plans.get(host));
        let Some((service, plan)) = found.filter(|_| !addresses.is_empty()) else {
            return Delta::new();
        };
        let present = (leases, Among::These(addresses));
        let present = claims(service, plan, present, unlisted);
        let Some(held) = self.claims.get(host) else {
            // Claims that need no address would be held.
            let delta = self.ledger.replace(&Claims::new(), &present);
            if !present.is_empty() {
                self.claims.insert(Arc::clone(host), Arc::new(present));
            }
            return delta;
        };
        let (mut old, mut new) = (Claims::new(), Claims::new());
        for target in targets_at(service, addresses) {
            let was = held.get(&target);
            old.extend(was.map(|action| (target, *action)));
            new.extend(present.get(&target).map(|action| (target, *action)));
        }
        if old == new {
            return Delta::new();
        }
        let delta = self.ledger.replace(&old, &new);
        let held = self.claims.entry(Arc::clone(host)).or_default();
        let claims = Arc::make_mut(held);
        for target in old.keys() {
            claims.remove(target);
        }
        claims.extend(new);
        if claims.is_empty() {
            self.claims.remove(host);
        }
        delta
    }
}
