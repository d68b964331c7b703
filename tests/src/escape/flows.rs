//! Floods the table of redirected flows.

use crate::pinned;
use anyhow::Result;
use aya::maps::{HashMap, MapData};
use egress_ebpf::abi::{FlowKey, FlowOrigin};
use egress_ebpf::ids::NetnsCookie;
use std::path::Path;

/// One and a half times the size of the table.
const FLOOD: u64 = 98_304;

/// The table, and the inserted flows.
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

    /// Inserts more flows than the table has room for, of no existing namespace. Returns their number.
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

    /// Removes those of them that are left. Returns their number.
    pub(super) fn empty(&mut self) -> usize {
        let keys = std::mem::take(&mut self.keys);
        keys.iter()
            .filter(|key| self.table.remove(key).is_ok())
            .count()
    }
}
