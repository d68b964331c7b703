//! Links of programs to cgroups: made, given another program without a moment in which none is attached,
//! detached; and which programs run for a cgroup.

use super::{bpf, get_info, open};
use aya::Pod;
use egress_ebpf::ids::CgroupId;
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a cgroup by a link.
pub fn create(
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
    open(BPF_LINK_CREATE, &mut attr)
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// Replaces the program of a link, without a moment in which none is attached.
pub fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
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
pub fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd().cast_unsigned();
    bpf(BPF_LINK_DETACH, &mut attr).map(|_| ())
}

/// The head of `struct bpf_link_info` for a cgroup link.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CgroupLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    cgroup_id: u64,
    attach_type: u32,
    pad2: u32,
}

// SAFETY: integers without padding between them, of which every bit pattern is a value.
unsafe impl Pod for CgroupLinkInfo {}

/// The id of the cgroup that a link is attached to; 0 if that cgroup is gone.
pub fn cgroup(link: BorrowedFd<'_>) -> io::Result<CgroupId> {
    info(link).map(|info| CgroupId(info.cgroup_id))
}

/// The id of the program that a link runs.
pub fn program(link: BorrowedFd<'_>) -> io::Result<u32> {
    info(link).map(|info| info.prog_id)
}

fn info(link: BorrowedFd<'_>) -> io::Result<CgroupLinkInfo> {
    get_info(link)
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

/// `BPF_CGROUP_INET_EGRESS` of `enum bpf_attach_type`: `cgroup_skb/egress`.
pub const CGROUP_INET_EGRESS: u32 = 1;

/// The ids of the programs of a cgroup for this attach type, in the order of their attachment. With `effective`,
/// the ids of all that run for it: its own first, then those of the cgroups above.
pub fn programs(cgroup: BorrowedFd<'_>, attach_type: u32, effective: bool) -> io::Result<Vec<u32>> {
    const BPF_F_QUERY_EFFECTIVE: u32 = 1;
    /// 64 programs at each level (`BPF_CGROUP_MAX_PROGS`), with room for 64 levels.
    const MAX_PROGRAMS: usize = 64 * 64;
    let mut ids = vec![0_u32; MAX_PROGRAMS];
    let mut attr = Query {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type,
        query_flags: if effective { BPF_F_QUERY_EFFECTIVE } else { 0 },
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(MAX_PROGRAMS).unwrap_or(u32::MAX),
        pad: 0,
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}
