//! Writes a table on the host: in memory that no program reads yet, or while programs read it.
//!
//! A table has one writer at a time. The word that makes a slot valid is written last, and the key of a slot
//! never changes: a deleted entry leaves its slot with action 0, and only the same key can use it again.

use super::{
    END, FIRST_BUCKET, FULL, HASH, HIGH, Key, LOW, Line, List, MAX_LENGTHS, PROBES, SLOT, WHAT,
};
use super::{bucket, filter, hash};
use crate::addr::Addr;
use core::sync::atomic::Ordering;

/// Bits of the mapped form before an IPv4 address.
const MAPPED_BITS: u32 = 96;
/// Random words of a table.
pub const SEED_WORDS: usize = 6;

impl Line {
    fn set(&self, index: usize, word: u64) {
        self.words[index].store(word, Ordering::Release);
    }
}

/// An entry: its key and its action.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// See [`Key`].
    pub key: Key,
    /// One of [`crate::abi::action`], never 0.
    pub action: u32,
}

/// The result of an insertion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// The entry took a slot that was never used.
    Placed,
    /// The entry took the slot that it had before it was deleted.
    Restored,
    /// The entry existed. Only its action may have changed.
    Changed,
    /// All buckets that the key may be in are full.
    NoPlace,
}

/// The content of a filled table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filled {
    /// Used slots.
    pub slots: usize,
    /// Of these, entries for one address on one port.
    pub exact: usize,
}

/// A key has no place: the table needs another seed, or more buckets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl Key {
    /// The lists that must contain its length. The network of 0 bits belongs to both families.
    fn lists(&self) -> [Option<List>; 2] {
        let first = Self::new(Addr::from_v4_be(0), 0, 0, 0);
        let mapped = self.high == first.high && self.low & 0xffff_ffff == first.low;
        let (v4, v6) = match self.kind & 0xffff {
            0 => (List::V4Any, List::V6Any),
            _ => (List::V4Port, List::V6Port),
        };
        match self.bits() {
            _ if self.is_exact() => [None, None],
            0 => [Some(v4), Some(v6)],
            MAPPED_BITS.. if mapped => [Some(v4), None],
            _ => [None, Some(v6)],
        }
    }
}

/// The prefix lengths of a table's networks, by list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lengths {
    lists: [[u64; 3]; 4],
}

impl Lengths {
    /// Whether a lookup finds this key. A single address on a port needs no list.
    #[must_use]
    pub fn has(&self, key: &Key) -> bool {
        let (word, bit) = place(key);
        let has = |list: List| self.lists[list as usize - 1][word] & bit != 0;
        key.lists().into_iter().flatten().all(has)
    }

    /// Adds the length of a network. If a list has no room, adds nothing and returns false.
    pub fn add(&mut self, key: &Key) -> bool {
        if self.has(key) {
            return true;
        }
        let mut with = *self;
        let (word, bit) = place(key);
        for list in key.lists().into_iter().flatten() {
            let lengths = &mut with.lists[list as usize - 1];
            lengths[word] |= bit;
            if lengths
                .iter()
                .map(|w| w.count_ones() as usize)
                .sum::<usize>()
                > MAX_LENGTHS
            {
                return false;
            }
        }
        *self = with;
        true
    }

    fn write(&self, lines: &[Line]) {
        for (lengths, line) in self.lists.iter().zip(&lines[1..]) {
            let mut words = [u64::MAX; 8];
            let longest_first = (0..=FULL as usize)
                .rev()
                .filter(|bits| lengths[bits / 64] & (1 << (bits % 64)) != 0);
            for (at, bits) in longest_first.take(MAX_LENGTHS).enumerate() {
                let shift = 8 * (at % 8);
                words[at / 8] &= !(END << shift);
                words[at / 8] |= (bits as u64) << shift;
            }
            for (index, word) in words.into_iter().enumerate() {
                line.set(index, word);
            }
        }
    }
}

fn place(key: &Key) -> (usize, u64) {
    let bits = key.bits() as usize;
    (bits / 64, 1 << (bits % 64))
}

/// Tables of more buckets are less dense: the more keys, the likelier one has no place.
const DENSE: usize = 1 << 12;

/// The part of the slots of a table of this many buckets that should be used, in eighths.
const fn density(buckets: usize) -> usize {
    if buckets <= DENSE { 5 } else { 4 }
}

/// The number of buckets for this many used slots.
#[must_use]
pub fn buckets_for(used: usize) -> usize {
    let dense = used.saturating_mul(4).div_ceil(5);
    let buckets = dense.next_power_of_two().max(4);
    if buckets <= DENSE {
        buckets
    } else {
        used.next_power_of_two()
    }
}

/// The number of lines of a table with this many buckets, which must be a power of two.
#[must_use]
pub const fn lines_for(buckets: usize) -> usize {
    FIRST_BUCKET as usize + buckets + buckets.div_ceil(64)
}

/// The number of slots of a table.
#[must_use]
pub fn slots(lines: &[Line]) -> usize {
    buckets(lines).len() * 2
}

/// The number of slots of a table that should be used, as in [`buckets_for`].
#[must_use]
pub fn room(lines: &[Line]) -> usize {
    let buckets = buckets(lines).len();
    buckets * 2 * density(buckets) / 8
}

fn buckets(lines: &[Line]) -> &[Line] {
    let count = lines
        .first()
        .map_or(0, |header| header.word(0) as usize + 1);
    let from = FIRST_BUCKET as usize;
    lines.get(from..from + count).unwrap_or_default()
}

/// Initialises an empty table of this many buckets, in memory that no program reads. `lines` has [`lines_for`]
/// them.
pub fn begin(lines: &[Line], buckets: usize, seed: &[u64; SEED_WORDS], lengths: &Lengths) {
    lines[0].set(0, buckets as u64 - 1);
    for (index, word) in seed.iter().enumerate() {
        lines[0].set(index + 1, *word);
    }
    lengths.write(lines);
    for line in &lines[FIRST_BUCKET as usize..] {
        for index in 0..8 {
            // Reads first, because a write would allocate memory that was never used.
            if line.word(index) != 0 {
                line.set(index, 0);
            }
        }
    }
}

/// Inserts all entries. Of two with the same key, the later one counts.
///
/// # Errors
///
/// [`Full`] at the first entry that finds no place.
pub fn put_all(lines: &[Line], entries: &[Entry]) -> Result<Filled, Full> {
    let mut filled = Filled::default();
    for entry in entries {
        match put(lines, entry) {
            Put::Placed => {
                filled.slots += 1;
                filled.exact += usize::from(entry.key.is_exact());
            }
            Put::Restored | Put::Changed => {}
            Put::NoPlace => return Err(Full),
        }
    }
    Ok(filled)
}

/// Inserts an entry, whose length must be in the lists.
#[must_use]
pub fn put(lines: &[Line], entry: &Entry) -> Put {
    let key = &entry.key;
    let what = u64::from(key.kind) | (u64::from(entry.action) << 32);
    match seek(lines, key) {
        Sought::Found(line, at) => {
            let before = line.word(at + WHAT) >> 32;
            line.set(at + WHAT, what);
            if before == 0 {
                Put::Restored
            } else {
                Put::Changed
            }
        }
        Sought::Free(line, at, hash) => {
            if !key.is_exact() {
                let filter = filter(&lines[0], hash);
                if let Some(line) = lines.get(filter.line as usize) {
                    line.set(filter.word, line.word(filter.word) | filter.bits);
                }
            }
            line.set(at + HIGH, key.high);
            line.set(at + LOW, key.low);
            line.set(at + HASH, hash);
            // This write makes the slot valid, together with its action.
            line.set(at + WHAT, what);
            Put::Placed
        }
        Sought::NoPlace => Put::NoPlace,
    }
}

/// Removes an entry. Returns false if it did not exist.
#[must_use]
pub fn delete(lines: &[Line], key: &Key) -> bool {
    match seek(lines, key) {
        Sought::Found(line, at) if line.word(at + WHAT) >> 32 != 0 => {
            line.set(at + WHAT, u64::from(key.kind));
            true
        }
        Sought::Found(..) | Sought::Free(..) | Sought::NoPlace => false,
    }
}

/// Whether the table has an entry for a key.
#[must_use]
pub fn holds(lines: &[Line], key: &Key) -> bool {
    matches!(seek(lines, key), Sought::Found(line, at) if line.word(at + WHAT) >> 32 != 0)
}

/// Every entry.
pub fn entries(lines: &[Line]) -> impl Iterator<Item = Entry> + '_ {
    let slots = buckets(lines)
        .iter()
        .flat_map(|line| [(line, 0), (line, SLOT)]);
    slots.filter_map(|(line, at)| {
        let what = line.word(at + WHAT);
        let key = Key {
            high: line.word(at + HIGH),
            low: line.word(at + LOW),
            kind: what as u32,
        };
        let action = (what >> 32) as u32;
        (action != 0).then_some(Entry { key, action })
    })
}

enum Sought<'a> {
    /// The slot of this key. The entry may be deleted.
    Found(&'a Line, usize),
    /// A free slot for the key, and the key's hash.
    Free(&'a Line, usize, u64),
    NoPlace,
}

fn seek<'a>(lines: &'a [Line], key: &Key) -> Sought<'a> {
    let Some(header) = lines.first() else {
        return Sought::NoPlace;
    };
    let hash = hash(header, key);
    for n in 0..PROBES {
        let Some(line) = lines.get(bucket(header, hash, n) as usize) else {
            return Sought::NoPlace;
        };
        for at in [0, SLOT] {
            let what = line.word(at + WHAT);
            if what == 0 {
                return Sought::Free(line, at, hash);
            }
            let same = what as u32 == key.kind
                && line.word(at + HIGH) == key.high
                && line.word(at + LOW) == key.low;
            if same {
                return Sought::Found(line, at);
            }
        }
    }
    Sought::NoPlace
}
