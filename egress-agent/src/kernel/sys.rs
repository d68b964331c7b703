//! The `bpf(2)` commands that aya 0.14 has no call for: open a pin, replace the program of a link in place,
//! ask what a link is attached to, create an array that can be mapped, and write many map entries in one
//! call.

use aya::Pod;
use egress_ebpf::ids::CgroupId;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Calls `bpf(2)` with an attribute of `size_of::<T>()` bytes.
fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is a `#[repr(C)]` prefix of `union bpf_attr`. The kernel takes its size from the third
    // argument and treats missing fields as zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<T>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[repr(C)]
struct ObjAt {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// Pins an object.
pub fn obj_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAt {
        pathname: name.as_ptr() as u64,
        bpf_fd: object.as_raw_fd().cast_unsigned(),
        file_flags: 0,
    };
    bpf(BPF_OBJ_PIN, &mut attr).map(|_| ())
}

/// Opens a pinned object.
pub fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAt {
        pathname: name.as_ptr() as u64,
        bpf_fd: 0,
        file_flags: 0,
    };
    let fd = bpf(BPF_OBJ_GET, &mut attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just created this descriptor for this process, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `BPF_CGROUP_SETSOCKOPT` of `enum bpf_attach_type`.
pub const CGROUP_SETSOCKOPT: u32 = 22;

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup by a link.
pub fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type,
        flags: 0,
    };
    let fd = bpf(BPF_LINK_CREATE, &mut attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just created this descriptor for this process, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of a link, without a moment in which none is attached.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old_prog_fd: 0,
    };
    bpf(BPF_LINK_UPDATE, &mut attr).map(|_| ())
}

/// Detaches a link's program from its cgroup immediately. A link whose cgroup is gone is already
/// detached.
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd().cast_unsigned();
    bpf(BPF_LINK_DETACH, &mut attr).map(|_| ())
}

#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The head of `struct bpf_link_info` for a cgroup link.
#[repr(C)]
#[derive(Default)]
struct CgroupLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    cgroup_id: u64,
    attach_type: u32,
    pad2: u32,
}

/// The id of the cgroup that a link is attached to; 0 if that cgroup is gone.
pub fn link_cgroup(link: BorrowedFd<'_>) -> io::Result<CgroupId> {
    link_info(link).map(|info| CgroupId(info.cgroup_id))
}

/// The id of the program that a link runs.
pub fn link_program(link: BorrowedFd<'_>) -> io::Result<u32> {
    link_info(link).map(|info| info.prog_id)
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    let mut info = CgroupLinkInfo::default();
    let mut attr = GetInfo {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        info_len: size_of::<CgroupLinkInfo>() as u32,
        info: &raw mut info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The `query` member of `union bpf_attr`.
#[expect(clippy::struct_field_names, reason = "the kernel's names")]
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
}

/// The ids of the `cgroup_skb/egress` programs of a cgroup, in the order of their attachment. With
/// `effective`, the ids of all that run for it: its own first, then those of the cgroups above.
pub fn egress_programs(cgroup: BorrowedFd<'_>, effective: bool) -> io::Result<Vec<u32>> {
    const BPF_CGROUP_INET_EGRESS: u32 = 1;
    const BPF_F_QUERY_EFFECTIVE: u32 = 1;
    /// 64 programs at each level (`BPF_CGROUP_MAX_PROGS`), with room for 64 levels.
    const MOST: usize = 64 * 64;
    let mut ids = vec![0_u32; MOST];
    let mut attr = Query {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type: BPF_CGROUP_INET_EGRESS,
        query_flags: if effective { BPF_F_QUERY_EFFECTIVE } else { 0 },
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(MOST).unwrap_or(u32::MAX),
        pad: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

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
    let fd = bpf(BPF_MAP_CREATE, &mut attr)?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just created this descriptor for this process, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The id of a map.
pub fn map_id(map: BorrowedFd<'_>) -> io::Result<u32> {
    /// The head of `struct bpf_map_info`.
    #[repr(C)]
    #[derive(Default)]
    struct MapInfo {
        kind: u32,
        id: u32,
    }
    let mut info = MapInfo::default();
    let mut attr = GetInfo {
        bpf_fd: map.as_raw_fd().cast_unsigned(),
        info_len: size_of::<MapInfo>() as u32,
        info: &raw mut info as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.id)
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
