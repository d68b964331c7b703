//! From a socket and a destination to a verdict: finds the socket's state and its owner's policy,
//! asks `decide()`, and remembers what was let through.

use crate::bpf::maps::{OWNERS, POLICIES, PROXIES, SOCKETS};
use crate::bpf::tables::KernelTables;
use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::abi::{DEFAULT_POLICY, Policy, SocketState, action};
use egress_ebpf::decide::{Destination, decide};
use egress_ebpf::verdict::{Reason, Verdict};

/// The state of a socket, if it has one.
///
/// `sk` is a socket pointer as the context of the running program gives it.
#[inline(always)]
pub fn state<'a>(sk: *mut c_void) -> Option<&'a mut SocketState> {
    storage(sk, 0)
}

/// The state of a socket, made of zeroes if it has none. `None` only out of memory.
#[inline(always)]
pub fn state_or_new<'a>(sk: *mut c_void) -> Option<&'a mut SocketState> {
    storage(sk, BPF_SK_STORAGE_GET_F_CREATE as u64)
}

#[inline(always)]
fn storage<'a>(sk: *mut c_void, flags: u64) -> Option<&'a mut SocketState> {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast();
    // SAFETY: the verifier holds `map` and `sk` to their types; the value lives as long as the
    // socket, which outlives the program's run. Two CPUs may write one state: `remember` says why
    // that is harmless.
    unsafe {
        bpf_sk_storage_get(map, sk, ptr::null_mut(), flags)
            .cast::<SocketState>()
            .as_mut()
    }
}

/// A policy with its id.
#[derive(Clone, Copy)]
pub struct Applied {
    pub id: u32,
    pub policy: Policy,
}

/// The policy of a socket's owner: the one cached in its state while it is current, else that of
/// the deepest owner that has one, else the default of the enforced root.
#[inline(always)]
pub fn policy_of(state: &SocketState) -> Applied {
    if state.generation != 0 {
        let cached = policy(state.policy);
        if cached.policy.generation == state.generation {
            return cached;
        }
    }
    // Without a loop: before Linux 6.2 the verifier refuses a loop that is entered by falling into
    // its head, and the compiler may lay one out so.
    let [a, b, c, d, e, f, g, leaf] = state.owner;
    let id = own(leaf).or_else(|| own(g)).or_else(|| own(f));
    let id = id.or_else(|| own(e)).or_else(|| own(d));
    let id = id.or_else(|| own(c)).or_else(|| own(b)).or_else(|| own(a));
    policy(id.unwrap_or(DEFAULT_POLICY))
}

/// The policy id that an owner has of its own.
#[inline(always)]
fn own(owner: u64) -> Option<u32> {
    if owner == 0 {
        return None;
    }
    // SAFETY: the value is one word, copied out at once.
    unsafe { OWNERS.get(owner) }.copied()
}

#[inline(always)]
pub fn policy(id: u32) -> Applied {
    let policy = match POLICIES.get_ptr(id) {
        // SAFETY: a slot of an array map is always there. The generation is read first: with the
        // agent writing the table first and the generation in a second write, no verdict of an
        // old table is ever cached under a new generation.
        Some(slot) => unsafe {
            let generation = ptr::read_volatile(&raw const (*slot).generation);
            let table = ptr::read_volatile(&raw const (*slot).table);
            let flags = ptr::read_volatile(&raw const (*slot).flags);
            let errno = ptr::read_volatile(&raw const (*slot).errno);
            Policy {
                table,
                generation,
                flags,
                errno,
            }
        },
        None => Policy::default(),
    };
    Applied { id, policy }
}

/// Judges a destination for a socket.
#[inline(always)]
pub fn judge(applied: &Applied, netns: u64, to: &Destination) -> Verdict {
    if applied.policy.generation == 0 {
        return Verdict::Deny(Reason::State);
    }
    decide(&KernelTables, &applied.policy, to, || proxy_port(netns))
}

/// Whether the policy that judged a socket stands as it did: told without looking at the rest of it.
#[inline(always)]
pub fn is_fresh(state: &SocketState) -> bool {
    let slot = POLICIES.get_ptr(state.policy);
    // SAFETY: a slot of an array map is always there.
    let now = slot.map_or(0, |slot| unsafe {
        ptr::read_volatile(&raw const (*slot).generation)
    });
    now != 0 && now == state.generation
}

/// Whether what is stored in a socket was judged under the policy that applies now.
#[inline(always)]
pub fn is_current(state: &SocketState, applied: &Applied) -> bool {
    state.generation == applied.policy.generation && state.policy == applied.id
}

/// The proxy's port in a network namespace, if it listens there.
#[inline(always)]
pub fn proxy_port(netns: u64) -> Option<u16> {
    // SAFETY: the port is one half-word, copied out at once.
    unsafe { PROXIES.get(netns).map(|proxy| proxy.port) }
}

/// Stores what was let through, so that the egress backstop need not judge it again.
///
/// Only verdicts that let a flow through are stored. Threads that share a datagram socket may
/// interleave here, but every mix of two stored destinations is of destinations that each passed.
#[inline(always)]
pub fn remember(state: &mut SocketState, applied: &Applied, to: &Destination, verdict: Verdict) {
    state.action = match verdict {
        Verdict::Allow => action::ALLOW,
        Verdict::Proxy => action::PROXY,
        Verdict::Deny(_) => return,
    };
    state.dst = to.addr.canonical();
    state.dialled = to.addr;
    state.port = to.port;
    state.proto = to.proto;
    state.policy = applied.id;
    state.generation = applied.policy.generation;
}
