//! The share that one workload has of a table: how many entries it may add in a second. The limit keeps a workload from
//! evicting its neighbours' entries at once.

use aya_ebpf::maps::LruHashMap;
use core::ptr;
use egress_ebpf::abi::{DenySeen, REPEAT_NS};
use egress_ebpf::ids::CgroupId;

/// Whether a workload may add another entry in this second.
#[inline(always)]
pub fn within_share(
    shares: &LruHashMap<CgroupId, DenySeen>,
    limit: u64,
    cgroup: CgroupId,
    at: u64,
) -> bool {
    let Some(seen) = shares.get_ptr_mut(&cgroup) else {
        let first = DenySeen { at, repeated: 1 };
        return shares.insert(&cgroup, &first, 0).is_ok();
    };
    // SAFETY: words of a map element, which stays mapped while the program runs. Other CPUs may write them
    // too; no verdict depends on them, and a few entries more or fewer do not matter.
    unsafe {
        if at.wrapping_sub(ptr::read_volatile(&raw const (*seen).at)) >= REPEAT_NS {
            ptr::write_volatile(&raw mut (*seen).at, at);
            ptr::write_volatile(&raw mut (*seen).repeated, 0);
        }
        let noted = ptr::read_volatile(&raw const (*seen).repeated) + 1;
        ptr::write_volatile(&raw mut (*seen).repeated, noted);
        noted <= limit
    }
}
