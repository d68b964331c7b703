//! How long each address of each name has a lease: a persistent map, so a snapshot costs nothing.

use super::Lease;
use imbl::OrdMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The lease of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Life {
    /// When it ends.
    pub(super) until: Instant,
    /// When the address was last in an answer, or in use.
    pub(super) seen: Instant,
}

/// The leases of a name.
pub(super) type Lives = OrdMap<IpAddr, Life>;

/// A snapshot of all leases. Give it out only when they are in the kernel.
#[derive(Clone, Debug, Default)]
pub struct InForce {
    names: OrdMap<Arc<str>, Lives>,
    /// The addresses of the last good answer to the agent's question for each name.
    newest: OrdMap<Arc<str>, Arc<[IpAddr]>>,
    /// How long an address must stay listed after the TTL of an answer.
    after: Duration,
}

impl InForce {
    /// Whether every address of this answer has a lease that lasts for its TTL and half of the grace, so that the
    /// answer can be given to a workload as it is.
    pub fn covers(&self, now: Instant, lease: &Lease) -> bool {
        let Some(lives) = self.names.get(&*lease.name) else {
            return lease.answer.addresses.is_empty();
        };
        let lasts = lease.answer.ttl.saturating_add(self.after);
        let Some(until) = now.checked_add(lasts) else {
            return false;
        };
        let mut addresses = lease.answer.addresses.iter();
        addresses.all(|ip| lives.get(ip).is_some_and(|life| life.until >= until))
    }

    /// Whether an address, in the form that the kernel looks up, has a lease of a name.
    pub fn has(&self, name: &str, address: IpAddr) -> bool {
        let lives = self.names.get(name);
        lives.is_some_and(|lives| lives.contains_key(&address))
    }

    /// The addresses of the last good answer to the agent's question for a name, in its order. They keep their leases
    /// until there is another answer, and for the grace from then on.
    pub fn newest(&self, name: &str) -> &[IpAddr] {
        self.newest.get(name).map_or(&[], |newest| newest)
    }

    /// The leases of each name that has addresses.
    pub(super) fn lives(&self) -> impl Iterator<Item = (&Arc<str>, &Lives)> {
        self.names.iter()
    }

    /// The same for leases with this grace.
    pub(super) fn with_grace(&self, grace: Duration) -> Self {
        Self {
            names: self.names.clone(),
            newest: self.newest.clone(),
            after: grace / 2,
        }
    }

    pub(super) fn set(&mut self, name: &Arc<str>, lives: &Lives) {
        if lives.is_empty() {
            self.forget(name);
        } else {
            self.names.insert(Arc::clone(name), lives.clone());
        }
    }

    pub(super) fn set_newest(&mut self, name: &Arc<str>, newest: &[IpAddr]) {
        self.newest.insert(Arc::clone(name), newest.into());
    }

    pub(super) fn forget(&mut self, name: &Arc<str>) {
        self.names.remove(name);
        self.newest.remove(name);
    }
}
