//! The memory of copies for mirrors: of each workload's share they get a part of their own, and only while the
//! workload has memory to spare.
//!
//! It allocates nothing itself. Without room there is no copy, and the request continues.

use super::client::Client;
use super::places::Place;

/// See the module.
pub(super) struct CopyRoom {
    /// Of what copies may take.
    copies: Place,
    /// Of the workload's memory.
    memory: Place,
    blocks: usize,
}

impl CopyRoom {
    /// Without any blocks yet.
    pub(super) fn none(client: &Client) -> Self {
        let (shared, share) = (&client.shared, client.share());
        Self {
            copies: shared.copies.none(share),
            memory: shared.memory.none(share),
            blocks: 0,
        }
    }

    /// Changes the number of blocks. False if there are not enough, and then nothing changes.
    pub(super) fn resize(&mut self, blocks: usize) -> bool {
        if !self.copies.resize(blocks) {
            return false;
        }
        let fits = if blocks > self.blocks {
            self.memory.grow_spare(blocks)
        } else {
            self.memory.resize(blocks)
        };
        if fits {
            self.blocks = blocks;
        } else {
            self.copies.resize(self.blocks);
        }
        fits
    }

    pub(super) fn blocks(&self) -> usize {
        self.blocks
    }
}
