//! Maps: an array that can be mapped into memory, and entries written one by one or many in one call.

use super::{bpf, get_info, open};
use aya::Pod;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// The head of the `map_create` member of `union bpf_attr`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
    numa_node: u32,
    map_name: [u8; 16],
}

/// Creates an array. The kernel shows at most 15 bytes of `name` in its lists.
pub fn create_array(
    name: &str,
    value_size: usize,
    max_entries: u32,
    map_flags: u32,
) -> io::Result<OwnedFd> {
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    let mut map_name = [0; 16];
    for (to, from) in map_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    let mut attr = MapCreate {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: size_of::<u32>() as u32,
        value_size: u32::try_from(value_size).map_err(io::Error::other)?,
        max_entries,
        map_flags,
        inner_map_fd: 0,
        numa_node: 0,
        map_name,
    };
    open(BPF_MAP_CREATE, &mut attr)
}

/// The id of a map.
pub fn id(map: BorrowedFd<'_>) -> io::Result<u32> {
    /// The head of `struct bpf_map_info`.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct MapInfo {
        kind: u32,
        id: u32,
    }
    // SAFETY: integers without padding between them, of which every bit pattern is a value.
    unsafe impl Pod for MapInfo {}
    get_info(map).map(|info: MapInfo| info.id)
}

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
struct Batch {
    position_in: u64,
    position_out: u64,
    keys: u64,
    values: u64,
    /// In: the number of entries. Out: entries written, also if the call fails.
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The progress of a call: entries done, and why it stopped before the end.
#[derive(Debug)]
pub struct Progress {
    /// Entries done, from the first.
    pub done: usize,
    /// The error of the next entry.
    pub stopped: Option<io::Error>,
}

/// Inserts or overwrites many entries (`generic_map_update_batch` in kernel/bpf/syscall.c). Each entry is
/// written as by a call of its own: readers see whole entries, but not the whole batch at once.
pub fn update_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> Progress {
    let count = keys.len().min(values.len());
    let mut attr = Batch {
        position_in: 0,
        position_out: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    match bpf(BPF_MAP_UPDATE_BATCH, &mut attr) {
        Ok(_) => Progress {
            done: count,
            stopped: None,
        },
        // In this case the kernel has not written the count.
        Err(e) if unsupported(&e) => Progress {
            done: 0,
            stopped: Some(e),
        },
        Err(e) => Progress {
            done: (attr.count as usize).min(count),
            stopped: Some(e),
        },
    }
}

/// The members of `union bpf_attr` for one entry.
#[repr(C)]
struct Element {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Inserts or overwrites one entry.
pub fn update_one<K: Pod, V: Pod>(map: BorrowedFd<'_>, key: &K, value: &V) -> Progress {
    let mut attr = Element {
        map_fd: map.as_raw_fd().cast_unsigned(),
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: std::ptr::from_ref(value) as u64,
        flags: 0,
    };
    let stopped = bpf(BPF_MAP_UPDATE_ELEM, &mut attr).err();
    Progress {
        done: usize::from(stopped.is_none()),
        stopped,
    }
}

/// The id of the map at an index of an array of maps.
pub fn inner_id(map: BorrowedFd<'_>, index: u32) -> io::Result<Option<u32>> {
    let mut id = 0_u32;
    let mut attr = Element {
        map_fd: map.as_raw_fd().cast_unsigned(),
        pad: 0,
        key: &raw const index as u64,
        value: &raw mut id as u64,
        flags: 0,
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(id)),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Whether this kernel has no batch operation for the map. `ENOTSUPP` (524) is kernel-internal and not in
/// libc.
pub fn unsupported(error: &io::Error) -> bool {
    const ENOTSUPP: i32 = 524;
    matches!(
        error.raw_os_error(),
        Some(libc::EINVAL | libc::EOPNOTSUPP | ENOTSUPP)
    )
}
