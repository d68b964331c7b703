//! A rule table: an open-addressed hash in an array of cache lines, and its lookup, which the kernel programs
//! and the host share.
//!
//! Line 0 has the parameters of the hash. Lines 1 to 4 list the prefix lengths of the table's networks. Then
//! come the buckets, each with two slots, and a filter that excludes most networks that are not in the table.
//! This file only reads; `fill` writes. It knows neither which table a policy has nor where the lines are
//! stored.

#[cfg(not(target_arch = "bpf"))]
mod fill;

#[cfg(not(target_arch = "bpf"))]
pub use fill::{
    Entry, Filled, Full, Lengths, Put, SEED_WORDS, begin, buckets_for, delete, entries, holds,
    lines_for, put, put_all, room, slots,
};

use crate::addr::Addr;
use crate::decide::Destination;
use core::mem::size_of;
use core::sync::atomic::AtomicU64;

/// Lines before the first bucket.
pub const FIRST_BUCKET: u32 = 5;
/// The number of buckets that a key may be in. If all of them are full, the table must grow.
pub const PROBES: u32 = 12;
/// The most prefix lengths in a list. IPv4 has 33, one of which is for both families.
pub const MAX_LENGTHS: usize = 40;
/// Ends a list of lengths.
const END: u64 = 0xff;
/// The length of a single address.
const FULL: u32 = 128;

/// A cache line of 64 bytes: the value of the array.
///
/// Its words are read and written whole, so a program may read while the agent writes.
#[repr(C)]
#[derive(Debug, Default)]
pub struct Line {
    words: [AtomicU64; 8],
}

const _: () = assert!(size_of::<Line>() == 64);

impl Line {
    #[inline(always)]
    #[cfg(not(target_arch = "bpf"))]
    fn word(&self, index: usize) -> u64 {
        self.words[index].load(core::sync::atomic::Ordering::Relaxed)
    }

    /// LLVM has no atomic load for BPF. A plain load of an aligned word is the same instruction.
    #[inline(always)]
    #[cfg(target_arch = "bpf")]
    fn word(&self, index: usize) -> u64 {
        // SAFETY: the word is valid and aligned. The read is volatile, so it happens once and whole.
        unsafe { self.words[index].as_ptr().read_volatile() }
    }
}

/// The lines of a table.
pub trait Lines: Copy {
    /// The line at an index; `None` beyond the end.
    fn line(&self, index: u32) -> Option<&Line>;
}

impl Lines for &[Line] {
    fn line(&self, index: u32) -> Option<&Line> {
        self.get(usize::try_from(index).ok()?)
    }
}

/// The key of an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Key {
    /// The first half of the network's address, as in memory.
    pub high: u64,
    /// The second half.
    pub low: u64,
    /// From the lowest bit on: port, protocol, prefix length. Never 0, because no protocol is 0.
    pub kind: u32,
}

impl Key {
    /// Makes the key of a canonical address. `port` is in host byte order, and 0 means any. `bits` is from 0 to
    /// 128, and counts the mapped form of IPv4. The address's bits beyond `bits` must be zero.
    #[inline(always)]
    #[must_use]
    pub fn new(addr: Addr, port: u16, proto: u8, bits: u8) -> Self {
        let [a, b, c, d] = addr.be.map(u64::from);
        Self {
            high: a | (b << 32),
            low: c | (d << 32),
            kind: u32::from(port) | (u32::from(proto) << 16) | (u32::from(bits) << 24),
        }
    }

    /// The network's address.
    #[must_use]
    pub const fn addr(&self) -> Addr {
        let (high, low) = (self.high, self.low);
        Addr {
            be: [
                high as u32,
                (high >> 32) as u32,
                low as u32,
                (low >> 32) as u32,
            ],
        }
    }

    /// Port, host byte order; 0 = any.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.kind as u16
    }

    /// IANA protocol number.
    #[must_use]
    pub const fn proto(&self) -> u8 {
        (self.kind >> 16) as u8
    }

    /// Prefix length, of 128 bits; IPv4 is counted in its mapped form.
    #[must_use]
    pub const fn bits(&self) -> u32 {
        self.kind >> 24
    }

    /// Whether this is one address on one port, which a lookup finds without the lists.
    #[inline(always)]
    #[must_use]
    pub const fn is_exact(&self) -> bool {
        self.kind >> 24 == FULL && self.kind & 0xffff != 0
    }

    /// The same with another length.
    #[inline(always)]
    #[must_use]
    pub fn of_bits(self, bits: u32) -> Self {
        Self {
            kind: (self.kind & 0x00ff_ffff) | (bits << 24),
            ..self
        }
    }

    /// The network of this length that contains the address.
    #[inline(always)]
    fn masked(self) -> Self {
        let (high, low) = mask(self.kind >> 24);
        Self {
            high: self.high & high.to_be(),
            low: self.low & low.to_be(),
            ..self
        }
    }
}

/// The first `bits` of 128.
#[inline(always)]
const fn mask(bits: u32) -> (u64, u64) {
    let high = if bits >= 64 {
        u64::MAX
    } else {
        !(u64::MAX >> (bits & 63))
    };
    let low = if bits >= FULL {
        u64::MAX
    } else if bits <= 64 {
        0
    } else {
        !(u64::MAX >> (bits & 63))
    };
    (high, low)
}

/// The lists of lengths, each in a line of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum List {
    V4Port = 1,
    V4Any = 2,
    V6Port = 3,
    V6Any = 4,
}

/// A sum of products with random numbers of twice the width. Two keys that were chosen without knowledge of
/// these numbers have the same upper half no more often than by chance (M. Thorup, "High Speed Hashing for
/// Integers and Strings", on vectors). This matters because DNS answers, and so other people, choose addresses.
#[inline(always)]
fn hash(header: &Line, key: &Key) -> u64 {
    let product = |index, word: u64| u64::wrapping_mul(header.word(index), word);
    header
        .word(1)
        .wrapping_add(product(2, key.high & 0xffff_ffff))
        .wrapping_add(product(3, key.high >> 32))
        .wrapping_add(product(4, key.low & 0xffff_ffff))
        .wrapping_add(product(5, key.low >> 32))
        .wrapping_add(product(6, u64::from(key.kind)))
}

/// The line of the `n`th bucket of a key. The steps grow, so that keys of neighbouring buckets do not crowd the
/// same buckets.
#[inline(always)]
fn bucket(header: &Line, hash: u64, n: u32) -> u32 {
    let home = (hash >> 32) as u32;
    FIRST_BUCKET + (home.wrapping_add(n * (n + 1) / 2) & header.word(0) as u32)
}

/// A place in the filter. A lookup among networks usually misses once for each longer prefix length, and a miss
/// that waits for the memory of its bucket costs more than everything else. The filter is a 64th as long as the
/// buckets and stays in the CPU's caches. Each network sets two bits in a word that eight buckets share.
struct Filter {
    line: u32,
    word: usize,
    bits: u64,
}

#[inline(always)]
fn filter(header: &Line, hash: u64) -> Filter {
    let mask = header.word(0) as u32;
    let home = (hash >> 32) as u32 & mask;
    Filter {
        line: FIRST_BUCKET + mask.wrapping_add(1).wrapping_add(home >> 6),
        word: (home >> 3) as usize & 7,
        bits: (1 << ((hash >> 26) & 63)) | (1 << ((hash >> 20) & 63)),
    }
}

/// A slot is four words: the address (two words), kind and action, and the hash.
///
/// A lookup also compares the hash. On processors that reorder reads, a program may see only some words of a slot
/// that is being written, and such a mixture does not have the hash of its key.
const SLOT: usize = 4;
const HIGH: usize = 0;
const LOW: usize = 1;
const WHAT: usize = 2;
const HASH: usize = 3;

/// Runs a block once for each number. The loop is unrolled, because the compiler may build a loop that is
/// entered by falling into its head, which the verifier rejects before Linux 6.2.
macro_rules! unrolled {
    ($n:ident of [$($value:literal)*] $body:block) => { $( { let $n = $value; $body } )* };
}

/// The action of the entry for the network that contains the key's address and has the key's length; 0 if there
/// is no entry.
#[inline(always)]
pub fn action<L: Lines>(lines: L, of: Key) -> u32 {
    let Some(header) = lines.line(0) else {
        return 0;
    };
    let key = of.masked();
    let hash = hash(header, &key);
    if !key.is_exact() {
        let filter = filter(header, hash);
        let seen = lines
            .line(filter.line)
            .map_or(0, |line| line.word(filter.word));
        if seen & filter.bits != filter.bits {
            return 0;
        }
    }
    unrolled!(n of [0 1 2 3 4 5 6 7 8 9 10 11] {
        let Some(line) = lines.line(bucket(header, hash, n)) else {
            return 0;
        };
        unrolled!(slot of [0 1] {
            let at: usize = slot * SLOT;
            if line.word(at + HASH) == hash {
                let what = line.word(at + WHAT);
                if what as u32 == key.kind
                    && line.word(at + HIGH) == key.high
                    && line.word(at + LOW) == key.low
                {
                    return (what >> 32) as u32;
                }
            }
        });
        // Slots fill in order, so an empty second slot ends the search.
        if line.word(SLOT + WHAT) == 0 {
            return 0;
        }
    });
    0
}

/// The action of the narrowest network that contains an address. Calls `action` with each prefix length of a
/// list, from the longest down to `shortest`. 0 if there is none.
#[inline(always)]
pub fn narrowest<L: Lines>(lines: L, list: u32, shortest: u32, action: impl Fn(u32) -> u32) -> u32 {
    let Some(lengths) = lines.line(list) else {
        return 0;
    };
    unrolled!(word of [0 1 2 3 4] {
        let eight = lengths.word(word);
        unrolled!(byte of [0 1 2 3 4 5 6 7] {
            let bits = ((eight >> (8 * byte)) & END) as u32;
            // The list is in descending order.
            if bits > FULL || bits < shortest {
                return 0;
            }
            let found = action(bits);
            if found != 0 {
                return found;
            }
        });
    });
    0
}

/// The two lookups that [`find`] needs of a table.
pub trait Table {
    /// [`action`].
    fn action(&self, of: Key) -> u32;
    /// [`narrowest`].
    fn narrowest(&self, of: Key, list: u32, shortest: u32) -> u32;
}

impl Table for [Line] {
    fn action(&self, of: Key) -> u32 {
        action(self, of)
    }

    fn narrowest(&self, of: Key, list: u32, shortest: u32) -> u32 {
        narrowest(self, list, shortest, |bits| action(self, of.of_bits(bits)))
    }
}

/// The action of the entry for a destination. Looks, in this order, for the address on the port, the narrowest
/// network on the port, and the narrowest network on any port. `to` has the canonical address. Skips networks
/// shorter than `shortest`; above 128, it skips all networks.
#[inline(always)]
pub fn find<T: Table + ?Sized>(table: &T, shortest: u32, to: &Destination) -> Option<u32> {
    let rule = |action| (action != 0).then_some(action);
    let (port, any) = if to.addr.is_v4() {
        (List::V4Port, List::V4Any)
    } else {
        (List::V6Port, List::V6Any)
    };
    // In a key, port 0 means any port, so no entry is for port 0 itself.
    if to.port != 0 {
        let on_port = Key::new(to.addr, to.port, to.proto, FULL as u8);
        let mut found = table.action(on_port);
        if found == 0 && shortest <= FULL {
            found = table.narrowest(on_port, port as u32, shortest);
        }
        if found != 0 {
            return rule(found);
        }
    }
    if shortest > FULL {
        return None;
    }
    let on_any = Key::new(to.addr, 0, to.proto, FULL as u8);
    rule(table.narrowest(on_any, any as u32, shortest))
}

#[cfg(test)]
mod tests;
