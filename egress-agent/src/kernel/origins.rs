//! Where an accepted connection of the proxy was going, from the socket's own storage.

use anyhow::Context as _;
use aya::Ebpf;
use aya::maps::{MapData, SkStorage};
use egress_ebpf::abi::FlowOrigin;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Reads origins.
pub struct Origins {
    map: SkStorage<MapData, FlowOrigin>,
}

impl Origins {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let map = ebpf
            .take_map("ORIGINS")
            .context("no map ORIGINS in the object")?;
        Ok(Self {
            map: map.try_into()?,
        })
    }

    /// The origin of an accepted connection; `None` for one that was not redirected here.
    pub fn get(&self, accepted: BorrowedFd<'_>) -> Option<FlowOrigin> {
        self.map.get(&accepted.as_raw_fd(), 0).ok()
    }
}
