//! Reads who sent a redirected DNS query, and to which server. The egress hook publishes that before the query leaves.

use super::origins::AncestorsOf;
use super::pins::Pins;
use aya::maps::{HashMap, MapData};
use egress_ebpf::abi::{DnsClient, DnsClientKey};
use egress_ebpf::ids::CgroupId;

/// Reads the clients of the DNS server.
pub struct DnsClients {
    map: HashMap<MapData, DnsClientKey, DnsClient>,
    ancestors: AncestorsOf,
}

impl DnsClients {
    /// Opens the pinned maps once more.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        Ok(Self {
            map: pins.map("DNS_CLIENTS")?.try_into()?,
            ancestors: AncestorsOf::open(pins)?,
        })
    }

    /// The client that sent a datagram with this mark. `None` if the gate did not redirect it, or if another socket has
    /// the client's address by now.
    pub fn get(&self, key: &DnsClientKey, mark: u32) -> Option<DnsClient> {
        let client = self.map.get(key, 0).ok()?;
        // SAFETY: a value of this function's own.
        let seal = unsafe { DnsClient::sealed(&raw const client, key) };
        (client.seal == seal && client.mark == mark).then_some(client)
    }

    /// The cgroups that own the client: its own, then those above it, up to level 1. Empty if the kernel's map no longer
    /// has them.
    pub fn owners(&self, cgroup: CgroupId) -> Vec<CgroupId> {
        self.ancestors.deepest_first(cgroup)
    }
}
