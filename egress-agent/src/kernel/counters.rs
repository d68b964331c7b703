//! The programs' counters, read from outside.

use super::pins::Pins;
use anyhow::Context as _;
use aya::maps::{Map, MapData, PerCpuArray};
use egress_ebpf::abi::counter;

/// Names that users see, by [`counter`].
const NAMES: [(u32, &str); counter::COUNT as usize] = [
    (counter::ALLOWED, "allowed"),
    (counter::REDIRECTED, "redirected"),
    (counter::DENIED, "denied"),
    (counter::EVENTS_LOST, "eventsLost"),
    (counter::FLOWS_FULL, "flowsFull"),
    (counter::REPEATED, "repeated"),
    (counter::WOULD_DENY, "wouldDeny"),
    (counter::ANSWERED, "answered"),
];

/// Each counter's index and name.
pub fn counter_names() -> impl Iterator<Item = (u32, &'static str)> {
    NAMES.into_iter()
}

/// Reads counters; they count since the maps were made, over every agent since.
pub struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    /// Opens the pinned map once more.
    pub fn open(pins: &Pins) -> anyhow::Result<Self> {
        let map =
            MapData::from_pin(pins.maps().join("COUNTERS")).context("opening map COUNTERS")?;
        Ok(Self(Map::PerCpuArray(map).try_into()?))
    }

    /// A counter's sum over the CPUs; an index is one of [`counter`].
    pub fn get(&self, index: u32) -> u64 {
        self.0
            .get(&index, 0)
            .map_or(0, |values| values.iter().sum())
    }
}
