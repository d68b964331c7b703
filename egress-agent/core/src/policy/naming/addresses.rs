//! The names of an address in DNS, for messages and to find leases by their address. No verdict rests on them.

use super::pairs::Pairs;
use egress_ebpf::addr::Addr;
use imbl::{OrdMap, OrdSet};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

/// The most left-out addresses that are kept for one name.
const MOST: usize = 16;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(in crate::policy) struct Addresses {
    leased: Pairs<Addr>,
    left_out: Pairs<Addr>,
    /// The addresses of each name in `left_out`.
    left_out_of: OrdMap<Arc<str>, Arc<[Addr]>>,
    rotating: OrdSet<Arc<str>>,
}

impl Addresses {
    /// How many leases there are. An address of two names has two.
    pub(in crate::policy) fn leases(&self) -> usize {
        self.leased.len()
    }

    /// A name leases a new address.
    pub(in crate::policy) fn lease(&mut self, ip: IpAddr, name: &Arc<str>) {
        self.leased.add(&ip.into(), name);
    }

    /// Such a lease ended.
    pub(in crate::policy) fn release(&mut self, ip: IpAddr, name: &Arc<str>) {
        self.leased.remove(&ip.into(), name);
    }

    /// Whether addresses were left out of a name's newest answer because they are not public.
    pub(in crate::policy) fn has_left_out(&self, name: &str) -> bool {
        self.left_out_of.contains_key(name)
    }

    /// Replaces the addresses that were left out of a name's newest answer because they are not public. Returns whether
    /// they are others than before.
    pub(in crate::policy) fn leave_out(&mut self, name: &Arc<str>, addresses: &[IpAddr]) -> bool {
        let new: BTreeSet<Addr> = addresses.iter().take(MOST).map(|ip| (*ip).into()).collect();
        let before = self.left_out_of.get(name);
        let others = !new.iter().eq(before.into_iter().flat_map(|old| old.iter()));
        for addr in &new {
            self.left_out.add(addr, name);
        }
        let old = if new.is_empty() {
            self.left_out_of.remove(name)
        } else {
            self.left_out_of
                .insert(Arc::clone(name), new.into_iter().collect())
        };
        for addr in old.iter().flat_map(|old| old.iter()) {
            self.left_out.remove(addr, name);
        }
        others
    }

    /// Notes whether the answers for a name keep changing.
    pub(in crate::policy) fn set_rotating(&mut self, name: &Arc<str>, rotates: bool) {
        if rotates {
            self.rotating.insert(Arc::clone(name));
        } else {
            self.rotating.remove(name);
        }
    }

    /// A name is no longer needed. Its leases were released before.
    pub(in crate::policy) fn forget(&mut self, name: &Arc<str>) {
        self.leave_out(name, &[]);
        self.rotating.remove(name);
    }

    /// Every name that leases an address.
    pub(in crate::policy) fn names_of(&self, addr: Addr) -> impl Iterator<Item = &Arc<str>> {
        self.leased.of(&addr.canonical())
    }

    /// Every name whose newest answer gave this address, which was left out.
    pub(in crate::policy) fn names_left_out(&self, addr: Addr) -> impl Iterator<Item = &Arc<str>> {
        self.left_out.of(&addr.canonical())
    }

    /// Names whose answers keep changing, sorted.
    pub(in crate::policy) fn rotating(&self) -> impl Iterator<Item = &Arc<str>> {
        self.rotating.iter().inspect(|_| super::work::note())
    }
}
