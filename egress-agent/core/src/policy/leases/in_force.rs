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

    /// The same for leases with this grace.
    pub(super) fn with_grace(&self, grace: Duration) -> Self {
        Self {
            names: self.names.clone(),
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

    pub(super) fn forget(&mut self, name: &Arc<str>) {
        self.names.remove(name);
    }
}
