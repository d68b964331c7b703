//! The table of redirected flows, flooded.

use crate::pinned;
use anyhow::Result;
use aya::maps::{HashMap, MapData};
use egress_ebpf::abi::{FlowKey, FlowOrigin};
use egress_ebpf::ids::NetnsCookie;
use std::path::Path;

/// Half as many again as the table has room for.
const FLOOD: u64 = 98_304;

/// The table, and what was put into it.
pub(super) struct Flows {
    table: HashMap<MapData, FlowKey, FlowOrigin>,
    keys: Vec<FlowKey>,
}

impl Flows {
    pub(super) fn open(bpf_dir: &Path) -> Result<Self> {
        Ok(Self {
            table: pinned::flow_table(bpf_dir)?,
            keys: Vec::new(),
        })
    }

    /// Puts in flows of no namespace, more than it has room for; how many.
    pub(super) fn flood(&mut self) -> Result<usize> {
        for number in 0..FLOOD {
            let key = FlowKey {
                netns: NetnsCookie(u64::MAX - number),
                ..FlowKey::default()
            };
            self.table.insert(key, FlowOrigin::default(), 0)?;
            self.keys.push(key);
        }
        Ok(self.keys.len())
    }

    /// Takes out what is left of it; how many those were.
    pub(super) fn empty(&mut self) -> usize {
        let keys = std::mem::take(&mut self.keys);
        keys.iter()
            .filter(|key| self.table.remove(key).is_ok())
            .count()
    }
}
