//! Finds the owner of a socket: the ancestors of its cgroup, and the policy of the deepest one that has one.
//!
//! A socket stores only the id of its cgroup. The ids above it are in a map, which the first socket that is created
//! in the cgroup writes. If the kernel has evicted them, the next socket of the cgroup writes them again. Until then,
//! packets are judged by the ancestors that the kernel returns for their socket.

use crate::bpf::maps::{ANCESTORS, OWNERS};
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_skb_ancestor_cgroup_id,
};
use aya_ebpf::programs::SkBuffContext;
use core::mem::MaybeUninit;
use core::ptr;
use egress_ebpf::abi::{Ancestors, DEFAULT_POLICY, MAX_DEPTH, Owner, OwnerOf};
use egress_ebpf::ids::{CgroupId, PolicyId};
use egress_ebpf::verdict::Reason;

/// Results of [`owner_of`] that are not policy ids.
const TOO_DEEP: u64 = 1 << 32;
const UNKNOWN: u64 = 1 << 33;

/// The cgroup of the running task. Stores its ancestors if they are not known.
#[inline(always)]
pub fn of_task() -> CgroupId {
    // SAFETY: takes no argument.
    let cgroup = CgroupId(unsafe { bpf_get_current_cgroup_id() });
    if ANCESTORS.get_ptr(cgroup).is_none() {
        note_ancestors(cgroup.0);
    }
    cgroup
}

/// Writes the ancestors of the running task's cgroup. Returns 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn note_ancestors(cgroup: u64) -> u64 {
    let cgroup = CgroupId(cgroup);
    let mut ancestors = MaybeUninit::uninit();
    // SAFETY: a local value. The helper takes a plain integer, and returns 0 for a level below the task's cgroup.
    let ancestors = unsafe {
        Ancestors::write(ancestors.as_mut_ptr(), cgroup, |level| {
            bpf_get_current_ancestor_cgroup_id(level)
        });
        ancestors.assume_init_ref()
    };
    // Another CPU may write the same value at the same time. Without room, the cgroup's owner stays unknown.
    let _ = ANCESTORS.insert(cgroup, ancestors, 0);
    0
}

/// The policy id of a cgroup's deepest owner, or why it cannot be found. Cgroup 0 means that the socket is older than
/// the gate.
#[inline(always)]
pub fn policy_id(cgroup: CgroupId) -> Result<PolicyId, Reason> {
    if cgroup == CgroupId(0) {
        return Ok(DEFAULT_POLICY);
    }
    match owner_of(cgroup.0) {
        TOO_DEEP => Err(Reason::CgroupDepth),
        UNKNOWN => Err(Reason::UnknownOwner),
        id => Ok(PolicyId(id as u32)),
    }
}

// The verifier checks each of these functions of plain numbers once (see `tables`).

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owner_of(cgroup: u64) -> u64 {
    let cgroup = CgroupId(cgroup);
    let Some(ancestors) = ANCESTORS.get_ptr(cgroup) else {
        return UNKNOWN;
    };
    // SAFETY: a map element, which stays mapped while the program runs.
    match unsafe { Ancestors::lookup(ancestors, cgroup, own) } {
        OwnerOf::Policy(id) => u64::from(id.0),
        OwnerOf::Nobody => u64::from(DEFAULT_POLICY.0),
        OwnerOf::TooDeep => TOO_DEEP,
        OwnerOf::Torn => UNKNOWN,
    }
}

/// A cgroup's own policy id.
#[inline(always)]
fn own(cgroup: CgroupId) -> Option<PolicyId> {
    OWNERS
        .get_ptr(cgroup)
        // SAFETY: one word of a map element, which stays mapped while the program runs.
        .map(|entry| Owner::policy(cgroup, unsafe { ptr::read_volatile(entry) }))
}

/// The policy id of the deepest owner of a packet's socket, by the cgroups that the kernel returns.
#[inline(always)]
pub fn policy_id_of_packet(ctx: &SkBuffContext) -> Result<PolicyId, Reason> {
    match owner_of_packet(ctx.skb.skb) {
        TOO_DEEP => Err(Reason::CgroupDepth),
        id => Ok(PolicyId(id as u32)),
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn owner_of_packet(skb: *mut __sk_buff) -> u64 {
    // SAFETY: takes no pointer but the context. Returns 0 for a level below the socket's cgroup.
    let at = |level: usize| unsafe { bpf_skb_ancestor_cgroup_id(skb, level as i32) };
    if at(MAX_DEPTH + 1) != 0 {
        return TOO_DEEP;
    }
    macro_rules! levels {
        ($($level:literal)*) => { $(
            let id = at($level);
            if id != 0 {
                if let Some(policy) = own(CgroupId(id)) {
                    return u64::from(policy.0);
                }
            }
        )* };
    }
    levels!(32 31 30 29 28 27 26 25 24 23 22 21 20 19 18 17);
    levels!(16 15 14 13 12 11 10 9 8 7 6 5 4 3 2 1);
    u64::from(DEFAULT_POLICY.0)
}
