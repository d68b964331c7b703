//! Reads the programs' counters.

use super::pins::Pins;
use anyhow::Context as _;
use aya::maps::{Map, MapData, PerCpuArray};

/// The counters, since the maps were created.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// Opens the pinned map again.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        let map =
            MapData::from_pin(pins.maps().join("COUNTERS")).context("opening map COUNTERS")?;
        Ok(Self(Map::PerCpuArray(map).try_into()?))
    }

    /// The sum of a counter over the CPUs. `index` is one of [`egress_ebpf::abi::counter`].
    pub fn get(&self, index: u32) -> u64 {
        self.0
            .get(&index, 0)
            .map_or(0, |values| values.iter().sum())
    }
}
