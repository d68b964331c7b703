//! The maps that say where flows are redirected, opened before the programs are loaded. The gate of a
//! previous agent redirects to a listener as soon as the listener is admitted.

use super::pins::Pins;
use super::{AGENT_PROGRAMS, attach};
use aya::maps::{HashMap, MapData, SkStorage};
use egress_ebpf::abi::ProxyPort;
use egress_ebpf::ids::NetnsCookie;
use std::os::fd::AsRawFd;
use std::path::Path;

/// See the module.
pub struct Redirects {
    listeners: SkStorage<MapData, u32>,
    proxies: HashMap<MapData, NetnsCookie, ProxyPort>,
}

impl Redirects {
    /// The maps of the gate that a previous agent left. `None` if there is no gate, or if its programs are
    /// not attached to `own`, the cgroup of this process: a connection accepted there would have no
    /// origin.
    pub fn standing(bpf_dir: &Path, own: &Path) -> Option<Self> {
        let pins = Pins::at(bpf_dir);
        let attached = attach::unlinked(&pins, own, &AGENT_PROGRAMS);
        if !attached.is_ok_and(|missing| missing.is_empty()) {
            return None;
        }
        let open = |name| pins.map(name).ok();
        Some(Self {
            listeners: open("LISTENERS")?.try_into().ok()?,
            proxies: open("PROXIES")?.try_into().ok()?,
        })
    }

    /// The ports to which flows in a namespace are redirected.
    pub fn ports(&self, netns: NetnsCookie) -> Option<ProxyPort> {
        self.proxies.get(&netns, 0).ok()
    }

    /// Allows the programs to redirect flows to this socket.
    pub fn admit(&mut self, listener: &impl AsRawFd) -> anyhow::Result<()> {
        Ok(self.listeners.insert(listener, 1, 0)?)
    }
}
