//! The end of the programs that run at a time.

use super::sys::map;
use anyhow::Context as _;
use egress_ebpf::ids::TableId;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

/// Waits for running programs, from any thread. Writes nothing that is used.
#[derive(Debug)]
pub struct Grace {
    /// The kernel's array of tables.
    map: OwnedFd,
    /// The empty table.
    vacant: OwnedFd,
}

impl Grace {
    /// Uses the maps `TABLES` and `VACANT`.
    pub(super) const fn of(map: OwnedFd, vacant: OwnedFd) -> Self {
        Self { map, vacant }
    }

    /// Returns when every program has ended that ran at the time of the call. Verdicts that programs store from then on
    /// are based on the writes before this call.
    ///
    /// A write to an array of maps waits for that, also if it changes nothing (`maybe_wait_bpf_programs` in
    /// kernel/bpf/syscall.c), so this writes the empty table to index 0, which is always empty.
    pub fn wait(&self) -> anyhow::Result<()> {
        let vacant = self.vacant.as_raw_fd().cast_unsigned();
        let wrote = map::update_one(self.map.as_fd(), &TableId(0), &vacant);
        match wrote.stopped {
            None => Ok(()),
            Some(error) => Err(error).context("waiting for the programs that run"),
        }
    }
}
