//! The table of redirected flows, filled to its limit.

use std::path::Path;

use anyhow::Result;
use aya::maps::{HashMap, MapData, MapError};
use egress_ebpf::abi::{FlowKey, FlowOrigin};

use crate::pinned;

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

    /// Puts in flows of no namespace until the kernel takes no more; how many.
    pub(super) fn fill(&mut self) -> Result<usize> {
        for number in 0_u64.. {
            let key = FlowKey {
                netns: u64::MAX - number,
                ..FlowKey::default()
            };
            match self.table.insert(key, FlowOrigin::default(), 0) {
                Ok(()) => self.keys.push(key),
                Err(MapError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(libc::E2BIG) =>
                {
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.keys.len())
    }

    /// Takes out what was put in.
    pub(super) fn empty(&mut self) -> Result<()> {
        for key in std::mem::take(&mut self.keys) {
            self.table.remove(&key)?;
        }
        Ok(())
    }
}
