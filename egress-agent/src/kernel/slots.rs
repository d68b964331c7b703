//! One rule table: a BPF array that is mapped into memory, filled before any program sees it and changed in
//! place after that.
//!
//! Owns the size of the array and decides when it is too small. `egress_ebpf::table` defines the layout,
//! and `outer` has the ids.

use super::mapped::Mapped;
use super::{random, sys};
use egress_ebpf::abi::TABLE_FLAGS;
use egress_ebpf::table::{self, Entry, Key, Lengths, Line, Put, SEED_WORDS};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

/// Seeds to try before doubling the number of buckets.
const SEEDS: usize = 4;

/// The cache lines of a table's array, in this process's memory.
pub type Memory = Mapped<Line>;

/// The index of an entry's kind in a count: 0 for a single address, 1 for a network.
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
    /// Adds an entry; a later one with the same key replaces it. Returns false and leaves it out if the
    /// list of prefix lengths is full.
    pub fn add(&mut self, entry: Entry) -> bool {
        let fits = entry.key.is_exact() || self.lengths.add(&entry.key);
        if fits {
            self.count[kind(&entry.key)] += 1;
            self.entries.push(entry);
        }
        fits
    }

    /// Single addresses, and networks. A key that was added twice counts twice.
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
    /// Slots that a key has used, deleted ones included.
    used: usize,
    /// Single addresses, and networks.
    count: [usize; 2],
}

impl Slots {
    /// Creates an array with these entries. Returns its descriptor too, for the kernel's array of tables.
    pub fn of(draft: &Draft) -> io::Result<(Self, OwnedFd)> {
        let mut buckets = table::buckets_for(draft.entries.len() + draft.spare);
        loop {
            let lines = table::lines_for(buckets);
            let entries = u32::try_from(lines).map_err(io::Error::other)?;
            let array =
                sys::map::create_array("rule_table", size_of::<Line>(), entries, TABLE_FLAGS)?;
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

    /// The memory, for lookups.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Single addresses, and networks.
    pub fn count(&self) -> [usize; 2] {
        self.count
    }

    /// Whether the table has an entry.
    pub fn holds(&self, key: &Key) -> bool {
        table::holds(self.memory.values(), key)
    }

    /// Inserts or changes an entry, which programs see at once. Returns false if there is no room for it.
    pub fn put(&mut self, entry: &Entry) -> bool {
        let lines = self.memory.values();
        let known = entry.key.is_exact() || self.lengths.has(&entry.key);
        let room = self.used < table::room(lines);
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

    /// Removes an entry, if there is one. Programs see that at once.
    pub fn delete(&mut self, key: &Key) {
        if table::delete(self.memory.values(), key) {
            self.count[kind(key)] -= 1;
        }
    }

    /// The content for a table that replaces this one, without deleted entries and with room to grow.
    pub fn draft(&self) -> Draft {
        let mut draft = Draft::default();
        for entry in table::entries(self.memory.values()) {
            draft.add(entry);
        }
        // Without spare room, a full table whose addresses change one by one would be rebuilt for each of
        // them.
        draft.spare = draft.entries.len() / 4 + 1;
        draft
    }
}
