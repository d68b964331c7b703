//! The addresses that answers gave and that were left out as not public, so that who is denied
//! one of them learns why. No verdict looks at them.

use egress_ebpf::addr::Addr;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

/// Addresses that are remembered for one name.
const MOST: usize = 16;

/// By name and by address.
#[derive(Clone, Debug, Default)]
pub(super) struct LeftOut {
    names: BTreeMap<Arc<str>, Vec<Addr>>,
    holders: BTreeMap<Addr, BTreeSet<Arc<str>>>,
}

impl LeftOut {
    /// The addresses of a name's newest answer that were left out take the place of those before.
    pub(super) fn replace(&mut self, name: &Arc<str>, addresses: &[IpAddr]) {
        let new: Vec<Addr> = addresses
            .iter()
            .take(MOST)
            .map(|ip| Addr::from(*ip))
            .collect();
        let old = if new.is_empty() {
            self.names.remove(name)
        } else {
            self.names.insert(Arc::clone(name), new.clone())
        };
        for addr in old.into_iter().flatten() {
            if let Some(names) = self.holders.get_mut(&addr) {
                names.remove(name);
                if names.is_empty() {
                    self.holders.remove(&addr);
                }
            }
        }
        for addr in new {
            let names = self.holders.entry(addr).or_default();
            names.insert(Arc::clone(name));
        }
    }

    /// The names whose newest answer gave this address.
    pub(super) fn names_of(&self, addr: Addr) -> impl Iterator<Item = &Arc<str>> {
        self.holders.get(&addr).into_iter().flatten()
    }
}
