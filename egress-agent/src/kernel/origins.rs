//! Reads the original destination and the owner of a connection that the proxy accepted, from the socket's
//! storage.

use super::pins::Pins;
use aya::maps::{HashMap, MapData, SkStorage};
use egress_ebpf::abi::{Ancestors, FlowOrigin};
use egress_ebpf::ids::CgroupId;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Reads origins.
pub struct Origins {
    map: SkStorage<MapData, FlowOrigin>,
    ancestors: AncestorsOf,
}

impl Origins {
    pub(super) fn open(pins: &Pins) -> anyhow::Result<Self> {
        Ok(Self {
            map: pins.map("ORIGINS")?.try_into()?,
            ancestors: AncestorsOf::open(pins)?,
        })
    }

    /// The origin of an accepted connection; `None` for one that was not redirected here.
    pub fn get(&self, accepted: BorrowedFd<'_>) -> Option<FlowOrigin> {
        self.map.get(&accepted.as_raw_fd(), 0).ok()
    }

    /// The cgroups that own a flow: its own, then those above it, up to level 1. Empty if the kernel's map
    /// no longer has them.
    pub fn owners(&self, origin: &FlowOrigin) -> Vec<CgroupId> {
        self.ancestors.deepest_first(origin.cgroup)
    }
}

/// The kernel's map of ancestors.
pub(super) struct AncestorsOf(HashMap<MapData, CgroupId, Ancestors>);

impl AncestorsOf {
    /// Opens the pinned map once more.
    pub(super) fn open(pins: &Pins) -> anyhow::Result<Self> {
        Ok(Self(pins.map("ANCESTORS")?.try_into()?))
    }

    /// A cgroup and those above it; empty if they are not known or the cgroup is nested too deep.
    pub(super) fn deepest_first(&self, cgroup: CgroupId) -> Vec<CgroupId> {
        let ancestors = self.0.get(&cgroup, 0);
        ancestors.map_or_else(|_| Vec::new(), |a| a.deepest_first(cgroup).collect())
    }
}
