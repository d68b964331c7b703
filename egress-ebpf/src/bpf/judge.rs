//! Judges a socket and a destination: finds the policy of the socket's owner, calls `decide()`, and
//! remembers an allowed destination.

use crate::bpf::maps::{POLICIES, PROXIES};
use crate::bpf::owner;
use crate::bpf::sock::Sock;
use crate::bpf::tables::KernelTables;
use core::ptr;
use egress_ebpf::abi::{NO_POLICY, Policy, SocketState, action, proto};
use egress_ebpf::decide::{Destination, decide, decide_for};
use egress_ebpf::digest::{self, Secret};
use egress_ebpf::ids::{Generation, NetnsCookie, PolicyId};
use egress_ebpf::verdict::{Reason, Verdict};

/// Written by the loader, another one at each load: what was remembered under another is judged again.
#[unsafe(no_mangle)]
static SECRET: Secret = Secret::UNSET;

/// A policy with its id.
#[derive(Clone, Copy)]
pub struct Applied {
    pub id: PolicyId,
    pub policy: Policy,
    /// Why everything is denied where the policy has no generation.
    missing: Reason,
}

impl Applied {
    /// A policy that could not be told.
    #[inline(always)]
    pub fn none(missing: Reason) -> Self {
        Self {
            id: NO_POLICY,
            policy: Policy::default(),
            missing,
        }
    }

    /// Whether it is not known whose the socket is.
    #[inline(always)]
    pub fn is_unknown(&self) -> bool {
        matches!(self.missing, Reason::UnknownOwner)
    }

    /// The pair that a socket remembers.
    #[inline(always)]
    fn pair(&self) -> u64 {
        SocketState::pair(self.id, self.policy.generation)
    }
}

/// The policy of a socket's owner: the one of its last verdict while that is current, else that of
/// the deepest owner that has one, else the default of the enforced root.
#[inline(always)]
pub fn policy_of(sock: Sock<'_>) -> Applied {
    let (id, generation) = SocketState::of_pair(sock.judged());
    if generation != Generation::NEVER {
        let last = policy(id);
        if last.policy.generation == generation {
            return last;
        }
    }
    match owner::policy_id(sock.cgroup()) {
        Ok(id) => policy(id),
        Err(reason) => Applied::none(reason),
    }
}

/// A policy as it stands now, in one piece.
#[inline(always)]
pub fn policy(id: PolicyId) -> Applied {
    let word = match POLICIES.get_ptr(id.0) {
        // SAFETY: a slot of an array map is always there; the agent writes it whole.
        Some(slot) => unsafe { ptr::read_volatile(slot) },
        None => 0,
    };
    Applied {
        id,
        policy: Policy::of_word(word),
        missing: Reason::State,
    }
}

/// Judges a destination for a socket.
#[inline(always)]
pub fn judge(applied: &Applied, netns: NetnsCookie, to: &Destination) -> Verdict {
    if applied.policy.generation == Generation::NEVER {
        return Verdict::Deny(applied.missing);
    }
    decide(&KernelTables, &applied.policy, to, || proxy_port(netns))
}

/// [`judge`] for a destination that networks shorter than `shortest` do not list.
#[inline(always)]
pub fn judge_for(
    applied: &Applied,
    netns: NetnsCookie,
    to: &Destination,
    shortest: u32,
) -> Verdict {
    if applied.policy.generation == Generation::NEVER {
        return Verdict::Deny(applied.missing);
    }
    let proxy = || proxy_port(netns);
    decide_for(&KernelTables, &applied.policy, to, shortest, proxy)
}

/// Policy and generation of a socket's last verdict, while that policy stands as it did: told without
/// looking at the rest of it.
#[inline(always)]
pub fn fresh(sock: Sock<'_>) -> Option<(PolicyId, Generation)> {
    let (id, generation) = SocketState::of_pair(sock.judged());
    let now = policy(id).policy.generation;
    (now != Generation::NEVER && now == generation).then_some((id, generation))
}

/// Whether what is stored in a socket was judged under the policy that applies now.
#[inline(always)]
pub fn is_current(sock: Sock<'_>, applied: &Applied) -> bool {
    sock.judged() == applied.pair()
}

/// What a socket that may broadcast remembers is another thing than what it remembered before: only
/// the egress hook, which sees the route, lets its datagrams pass.
#[inline(always)]
fn by_route(sock: Sock<'_>, id: PolicyId) -> u32 {
    id.0 | (u32::from(sock.may_broadcast()) << 31)
}

/// The time at which a peer wrote, as the table of peers has it: one word, which is of this very
/// peer and socket. The table gives an element that a program looks at to another peer at once.
#[inline(always)]
pub fn of_peer(cookie: u64, peer: &Destination) -> u64 {
    digest::passed(&SECRET, peer, [cookie as u32, (cookie >> 32) as u32])
}

/// Whether this is the last allowed destination of datagrams, under this policy of this generation.
#[inline(always)]
pub fn has_passed(
    sock: Sock<'_>,
    to: &Destination,
    (id, generation): (PolicyId, Generation),
) -> bool {
    let word = digest::passed(&SECRET, to, [by_route(sock, id), generation.0]);
    word != 0 && sock.passed() == word
}

/// The proxy's port in a network namespace, if it listens there. An element that is deleted may tell
/// another namespace's: a connect there finds no listener of the agent's, and is denied.
#[inline(always)]
pub fn proxy_port(netns: NetnsCookie) -> Option<u16> {
    PROXIES
        .get_ptr(netns)
        // SAFETY: an element of the map, which stays mapped while the program runs; one half-word.
        .map(|proxy| unsafe { ptr::read_volatile(&raw const (*proxy).port) })
}

/// Stores what was allowed, so that the egress backstop need not judge it again.
///
/// A datagram's destination is one word, which no other thread can mix with another. A stream's is
/// more, and is written under the socket's lock.
#[inline(always)]
pub fn remember(sock: Sock<'_>, applied: &Applied, to: &Destination, verdict: Verdict) {
    let action = match verdict {
        Verdict::Allow => action::ALLOW,
        Verdict::Proxy => action::PROXY,
        Verdict::Deny(_) => return,
    };
    sock.set_judged(applied.pair());
    if to.proto == proto::UDP {
        let id = by_route(sock, applied.id);
        let word = digest::passed(&SECRET, to, [id, applied.policy.generation.0]);
        sock.set_passed(word);
    } else {
        sock.set_destination(to);
        sock.set_mode(sock.mode().dialled(action));
    }
}

/// A stream that was allowed before is allowed by what applies now.
#[inline(always)]
pub fn renew(sock: Sock<'_>, applied: &Applied) {
    sock.set_judged(applied.pair());
}
