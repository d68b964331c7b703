//! Looks destinations up in the kernel's rule tables.

use crate::bpf::maps::{LineArray, TABLES};
use egress_ebpf::decide::{Destination, Tables};
use egress_ebpf::ids::TableId;
use egress_ebpf::table::{self, Key, Line, Lines, Table};

/// One table's lines.
#[derive(Clone, Copy)]
struct InnerLines<'a>(&'a LineArray);

impl Lines for InnerLines<'_> {
    #[inline(always)]
    fn line(&self, index: u32) -> Option<&Line> {
        // SAFETY: a value of the array has 64 bytes, is aligned to eight and stays mapped while the program runs. The
        // words of a line may change at any time.
        self.0.get_ptr(index).map(|line| unsafe { &*line.cast() })
    }
}

/// The rule tables as the decision sees them.
pub struct KernelTables;

impl Tables for KernelTables {
    #[inline(always)]
    fn find(&self, id: TableId, shortest: u32, to: &Destination) -> Option<u32> {
        table::find(&ById(id), shortest, to)
    }
}

/// The table of this id.
struct ById(TableId);

impl Table for ById {
    #[inline(always)]
    fn action(&self, of: Key) -> u32 {
        table_action(self.0.0, of.kind, of.high, of.low) as u32
    }

    #[inline(always)]
    fn narrowest(&self, of: Key, list: u32, shortest: u32) -> u32 {
        // A function has five arguments at most.
        let lists = list | (shortest << 16);
        table_narrowest(self.0.0, of.kind, of.high, of.low, lists) as u32
    }
}

// The verifier checks these functions of plain numbers once. Inlined, it would check them on every path of a program
// that leads to them, which is beyond its limit. Results are whole registers, so that the verifier knows all bits of a
// result that was compared.

/// [`table::action`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_action(id: u32, kind: u32, high: u64, low: u64) -> u64 {
    let of = Key { high, low, kind };
    TABLES
        .get(id)
        .map_or(0, |lines| u64::from(table::action(InnerLines(lines), of)))
}

/// [`table::narrowest`]. `lists` has the list in the lower half and the shortest length above it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn table_narrowest(id: u32, kind: u32, high: u64, low: u64, lists: u32) -> u64 {
    let of = Key { high, low, kind };
    let action = |bits| ById(TableId(id)).action(of.of_bits(bits));
    TABLES.get(id).map_or(0, |lines| {
        let (list, shortest) = (lists & 0xffff, lists >> 16);
        u64::from(table::narrowest(InnerLines(lines), list, shortest, action))
    })
}
