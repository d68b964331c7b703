//! The program's own pages: code and constants that the file has.

use rustix::mm::{Advice, madvise};
use std::ffi::{c_int, c_void};
use std::ops::Range;
use std::slice;

/// Takes the program's read-only pages out of the process's address space. The kernel maps those again that are used, 16 at
/// a time (`mm/memory.c`, `do_fault_around`), mostly from the page cache. What only the start or a change of the rules needed
/// stays out, and is the first that the kernel reclaims when memory is short.
pub(super) fn unmap() {
    let page = rustix::param::page_size();
    for segment in segments() {
        // No page that another segment has a part of.
        let (start, end) = (
            segment.start.next_multiple_of(page),
            segment.end / page * page,
        );
        if start < end {
            // SAFETY: nothing can have written to these pages, so a later use reads what they hold now from the file, which
            // cannot be written while it runs (`ETXTBSY`). That includes the uses that other threads make meanwhile.
            let advised =
                unsafe { madvise(start as *mut c_void, end - start, Advice::LinuxDontNeed) };
            // The pages then stay.
            advised.ok();
        }
    }
}

/// The addresses of the program's segments that cannot be written. Those with relocations are not among them: they can be
/// written until the loader has ended (`PT_GNU_RELRO` is a part of a segment with `PF_W`).
fn segments() -> Vec<Range<usize>> {
    let mut segments = Vec::new();
    // SAFETY: the callback gets the pointer to `segments` as its last argument, and only before this function returns.
    unsafe { libc::dl_iterate_phdr(Some(add_first), (&raw mut segments).cast()) };
    segments
}

/// Adds the segments of the first object, which is the program (`man 3 dl_iterate_phdr`), and ends there.
///
/// # Safety
/// `info` is what `dl_iterate_phdr` gives, and `segments` a `Vec<Range<usize>>` that nothing else uses.
unsafe extern "C" fn add_first(
    info: *mut libc::dl_phdr_info,
    _: libc::size_t,
    segments: *mut c_void,
) -> c_int {
    // SAFETY: by the caller.
    let (info, segments) = unsafe { (&*info, &mut *segments.cast::<Vec<Range<usize>>>()) };
    // SAFETY: the loader's table of the program's headers, which stays as long as the program.
    let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            let start = (info.dlpi_addr + header.p_vaddr) as usize;
            segments.push(start..start + header.p_memsz as usize);
        }
    }
    1
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A constant of the file that fills pages.
    static TABLE: [u8; 1 << 20] = [7; 1 << 20];

    /// Resident kibibytes of the mapping with an address (`man 5 proc_pid_smaps`).
    fn resident(address: usize) -> usize {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut within = false;
        for line in maps.lines() {
            let first = line.split_whitespace().next().unwrap();
            if let Some((start, end)) = first.split_once('-') {
                let [start, end] = [start, end].map(|hex| usize::from_str_radix(hex, 16).unwrap());
                within = (start..end).contains(&address);
            } else if within && first == "Rss:" {
                return line.split_whitespace().nth(1).unwrap().parse().unwrap();
            }
        }
        panic!("no mapping has {address:x}");
    }

    #[test]
    fn constants_leave_and_come_back() {
        let sum = || {
            TABLE
                .iter()
                .map(|&byte| u64::from(std::hint::black_box(byte)))
                .sum::<u64>()
        };
        assert_eq!(sum(), 7 << 20);
        let before = resident(TABLE.as_ptr() as usize);
        unmap();
        let after = resident(TABLE.as_ptr() as usize);
        assert!(after + 500 < before, "{after} of {before} KiB");
        assert_eq!(sum(), 7 << 20);
    }

    #[test]
    fn segments_hold_code_and_constants_and_nothing_that_is_written() {
        static WRITTEN: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(1);
        /// Has an address, so the loader writes it.
        static RELOCATED: [&[u8]; 2] = [&TABLE, b"b"];
        let segments = segments();
        let among = |address: usize| segments.iter().any(|segment| segment.contains(&address));
        assert!(among(TABLE.as_ptr() as usize));
        assert!(among(unmap as fn() as usize));
        assert!(!among(&raw const WRITTEN as usize));
        assert!(!among(&raw const RELOCATED as usize));
    }
}
