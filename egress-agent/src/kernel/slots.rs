//! One rule table as the agent writes it: a BPF array that is mapped into memory, filled before
//! any program sees it and changed in place after that.
//!
//! Owns the size of the array and decides when it is too small. The pure crate defines the layout;
//! `outer` has the ids.

use super::mapped::Mapped;
use super::{random, sys};
use egress_ebpf::abi::TABLE_FLAGS;
use egress_ebpf::table::{self, Entry, Key, Lengths, Line, Put, SEED_WORDS};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

/// Seeds that are tried before the table gets twice the buckets.
const SEEDS: usize = 4;

/// The lines of a table's array, in this process's memory.
pub type Memory = Mapped<Line>;

/// The count that an entry belongs to: addresses on a port, or networks.
pub fn kind(key: &Key) -> usize {
    usize::from(!key.is_exact())
}

/// The content of a table before it has memory.
#[derive(Debug, Default)]
pub struct Draft {
    entries: Vec<Entry>,
    lengths: Lengths,
    count: [usize; 2],
    /// Additional entries that it has room for.
    spare: usize,
}

impl Draft {
    /// Adds an entry, over one of the same key; false, and it is left out, if its list of lengths
    /// has no room.
    pub fn add(&mut self, entry: Entry) -> bool {
        let fits = entry.key.is_exact() || self.lengths.add(&entry.key);
        if fits {
            self.count[kind(&entry.key)] += 1;
            self.entries.push(entry);
        }
        fits
    }

    /// Addresses on a port, and networks. What was added twice counts twice.
    pub fn count(&self) -> [usize; 2] {
        self.count
    }

    /// The prefix lengths of its networks.
    pub fn lengths(&self) -> Lengths {
        self.lengths
    }
}

/// A table in memory.
#[derive(Debug)]
pub struct Slots {
    memory: Arc<Memory>,
    lengths: Lengths,
    /// Slots that were ever used by a key.
    used: usize,
    /// Addresses on a port, and networks.
    count: [usize; 2],
}

impl Slots {
    /// Makes an array with these entries, and its descriptor, which nothing here needs.
    pub fn of(draft: &Draft) -> io::Result<(Self, OwnedFd)> {
        let mut buckets = table::buckets_for(draft.entries.len() + draft.spare);
        loop {
            let lines = table::lines_for(buckets);
            let entries = u32::try_from(lines).map_err(io::Error::other)?;
            let array = sys::create_array("rule_table", size_of::<Line>(), entries, TABLE_FLAGS)?;
            let memory = Memory::of(array.as_fd(), lines)?;
            for _ in 0..SEEDS {
                table::begin(
                    memory.values(),
                    buckets,
                    &random::words::<SEED_WORDS>()?,
                    &draft.lengths,
                );
                if let Ok(filled) = table::put_all(memory.values(), &draft.entries) {
                    let slots = Self {
                        memory: Arc::new(memory),
                        lengths: draft.lengths,
                        used: filled.slots,
                        count: [filled.exact, filled.slots - filled.exact],
                    };
                    return Ok((slots, array));
                }
            }
            buckets *= 2;
        }
    }

    /// The memory, to look things up in.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Addresses on a port, and networks.
    pub fn count(&self) -> [usize; 2] {
        self.count
    }

    /// Whether an entry is there.
    pub fn holds(&self, key: &Key) -> bool {
        table::holds(self.memory.values(), key)
    }

    /// Puts in an entry, or changes it, at once; false if there is no place for it.
    pub fn put(&mut self, entry: &Entry) -> bool {
        let lines = self.memory.values();
        let known = entry.key.is_exact() || self.lengths.has(&entry.key);
        let room = self.used < table::slots(lines) / 2;
        if !known || !(room || table::holds(lines, &entry.key)) {
            return false;
        }
        let kind = kind(&entry.key);
        match table::put(lines, entry) {
            Put::NoPlace => return false,
            Put::Changed => {}
            Put::Restored => self.count[kind] += 1,
            Put::Placed => {
                self.count[kind] += 1;
                self.used += 1;
            }
        }
        true
    }

    /// Removes an entry at once. A missing entry is no error.
    pub fn delete(&mut self, key: &Key) {
        if table::delete(self.memory.values(), key) {
            self.count[kind(key)] -= 1;
        }
    }

    /// Its content for a table that replaces it: with room to grow, without deleted entries.
    pub fn draft(&self) -> Draft {
        let mut draft = Draft::default();
        for entry in table::entries(self.memory.values()) {
            draft.add(entry);
        }
        // Otherwise a table at its limit, where each new address replaces an old one, would be
        // rebuilt for each of them.
        draft.spare = draft.entries.len() / 4 + 1;
        draft
    }
}
