//! Reads the programs' counters.

use super::pins::Pins;
use aya::maps::{MapData, PerCpuArray};

/// The counters, since the maps were created.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// Opens the pinned map again.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        Ok(Self(pins.map("COUNTERS")?.try_into()?))
    }

    /// The sum of a counter over the CPUs. `index` is one of [`egress_ebpf::abi::counter`].
    pub fn get(&self, index: u32) -> u64 {
        self.0
            .get(&index, 0)
            .map_or(0, |values| values.iter().sum())
    }
}
