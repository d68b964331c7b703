//! Judges a socket and a destination: finds the policy of the socket's owner, calls `decide()`, and
//! remembers an allowed destination.

use crate::bpf::maps::{POLICIES, PROXIES};
use crate::bpf::owner;
use crate::bpf::sock::Sock;
use crate::bpf::tables::KernelTables;
use core::ptr;
use egress_ebpf::abi::{DNS_SLOTS, NO_POLICY, Policy, SocketState, action, proto};
use egress_ebpf::decide::{Destination, Listeners, decide, decide_for};
use egress_ebpf::digest::{self, Secret};
use egress_ebpf::ids::{CgroupId, Generation, NetnsCookie, PolicyId};
use egress_ebpf::verdict::{Reason, Verdict};

/// The loader writes a new secret at each load, so that words which sockets stored under another one are judged
/// again.
#[unsafe(no_mangle)]
static SECRET: Secret = Secret::UNSET;

/// A policy with its id.
#[derive(Clone, Copy)]
pub struct Applied {
    pub id: PolicyId,
    pub policy: Policy,
    /// The reason for the denials if the policy has no generation.
    missing: Reason,
    /// The socket's cgroup is not known, so this is the default policy. The first packet shows the cgroup, perhaps on
    /// another CPU meanwhile, so no verdict under it is stored.
    provisional: bool,
}

impl Applied {
    /// A policy that could not be found.
    #[inline(always)]
    pub fn none(missing: Reason) -> Self {
        Self {
            id: NO_POLICY,
            policy: Policy::default(),
            missing,
            provisional: false,
        }
    }

    /// Whether the socket's owner is not known.
    #[inline(always)]
    pub fn is_unknown(&self) -> bool {
        matches!(self.missing, Reason::UnknownOwner)
    }

    /// The pair that a socket stores with a verdict.
    #[inline(always)]
    fn pair(&self) -> u64 {
        SocketState::pair(self.id, self.policy.generation)
    }
}

/// The policy of a socket's owner: the policy of its last verdict if that is current, otherwise the policy of the
/// deepest owner that has one, otherwise the default policy.
#[inline(always)]
pub fn policy_of(sock: Sock<'_>) -> Applied {
    let (id, generation) = SocketState::of_pair(sock.judged());
    if generation != Generation::NEVER {
        let last = policy(id);
        if last.policy.generation == generation {
            return last;
        }
    }
    let cgroup = sock.cgroup();
    match owner::policy_id(cgroup) {
        Ok(id) => Applied {
            provisional: cgroup == CgroupId(0),
            ..policy(id)
        },
        Err(reason) => Applied::none(reason),
    }
}

/// Reads a policy at once.
#[inline(always)]
pub fn policy(id: PolicyId) -> Applied {
    let word = match POLICIES.get_ptr(id.0) {
        // SAFETY: a slot of an array map always exists, and the agent writes it whole.
        Some(slot) => unsafe { ptr::read_volatile(slot) },
        None => 0,
    };
    Applied {
        id,
        policy: Policy::of_word(word),
        missing: Reason::State,
        provisional: false,
    }
}

/// Judges a destination for a socket.
#[inline(always)]
pub fn judge(applied: &Applied, netns: NetnsCookie, to: &Destination) -> Verdict {
    if applied.policy.generation == Generation::NEVER {
        return Verdict::Deny(applied.missing);
    }
    decide(&KernelTables, &applied.policy, to, In(netns))
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
    decide_for(&KernelTables, &applied.policy, to, shortest, In(netns))
}

/// The pair of a socket's last verdict, if that policy has not changed since. Does not look up the owner.
#[inline(always)]
pub fn fresh(sock: Sock<'_>) -> Option<u64> {
    let judged = sock.judged();
    let (id, generation) = SocketState::of_pair(judged);
    let now = policy(id).policy.generation;
    (now != Generation::NEVER && now == generation).then_some(judged)
}

/// Whether a socket's stored verdict was made under the policy that applies now.
#[inline(always)]
pub fn is_current(sock: Sock<'_>, applied: &Applied) -> bool {
    sock.judged() == applied.pair()
}

/// The word of a peer and a socket, which is added to the time in the table of peers. The table may give an
/// element that a program reads to another peer, whose word is another one.
#[inline(always)]
pub fn of_peer(cookie: u64, peer: &Destination) -> u64 {
    digest::of_peer(&SECRET, cookie, peer)
}

/// Whether this is the last allowed destination of the socket's datagrams, under this pair of policy and generation.
///
/// It was allowed as one host. A datagram of a socket that may broadcast can have another route than the last one, so
/// the egress hook looks at the route of each (`sender::is_broadcast`).
#[inline(always)]
pub fn has_passed(sock: Sock<'_>, to: &Destination, pair: u64) -> bool {
    let word = digest::passed(&SECRET, to, pair);
    word != 0 && sock.passed() == word
}

/// The proxy's port in a network namespace, if it listens there. An element that is being deleted may show another
/// namespace's port. Then a connect finds no listener of the agent and is denied.
#[inline(always)]
pub fn proxy_port(netns: NetnsCookie) -> Option<u16> {
    PROXIES
        .get_ptr(netns)
        // SAFETY: a half-word of a map element, which stays mapped while the program runs.
        .map(|proxy| unsafe { ptr::read_volatile(&raw const (*proxy).port) })
}

/// A port of the DNS server in a network namespace, by its slot. 0 if the server does not listen there.
#[inline(always)]
pub fn dns_port(netns: NetnsCookie, slot: usize) -> u16 {
    let Some(ports) = PROXIES.get_ptr(netns) else {
        return 0;
    };
    let mut port = 0;
    // Constant offsets, so that the verifier needs no bounds.
    let mut at = 0;
    while at < DNS_SLOTS {
        if at == slot {
            // SAFETY: as in `proxy_port`.
            port = unsafe { ptr::read_volatile(&raw const (*ports).dns[at]) };
        }
        at += 1;
    }
    port
}

/// The agent's listeners in a network namespace.
struct In(NetnsCookie);

impl Listeners for In {
    #[inline(always)]
    fn proxy(&self) -> Option<u16> {
        proxy_port(self.0)
    }

    #[inline(always)]
    fn has_dns(&self, protocol: u8) -> bool {
        if protocol == proto::TCP {
            proxy_port(self.0).is_some()
        } else {
            dns_port(self.0, 0) != 0
        }
    }

    #[inline(always)]
    fn is_dns(&self, port: u16) -> bool {
        is_dns_port(self.0, port)
    }
}

/// Whether this is a port of the DNS server in a network namespace.
#[inline(always)]
pub fn is_dns_port(netns: NetnsCookie, port: u16) -> bool {
    let Some(ports) = PROXIES.get_ptr(netns) else {
        return false;
    };
    let mut found = false;
    let mut at = 0;
    while at < DNS_SLOTS {
        // SAFETY: as in `proxy_port`.
        found |= unsafe { ptr::read_volatile(&raw const (*ports).dns[at]) } == port;
        at += 1;
    }
    found && port != 0
}

/// Stores an allowed destination, so that the egress backstop need not judge it again.
///
/// A datagram's destination is one word, so threads cannot mix two of them. A stream's destination has several
/// words, and is written under the socket's lock.
#[inline(always)]
pub fn remember(sock: Sock<'_>, applied: &Applied, to: &Destination, verdict: Verdict) {
    let action = match verdict {
        Verdict::Allow => action::ALLOW,
        Verdict::Proxy | Verdict::Dns => action::PROXY,
        Verdict::Deny(_) => return,
    };
    renew(sock, applied);
    if to.proto == proto::UDP {
        // The egress hook publishes the owner of each redirected datagram.
        if verdict == Verdict::Dns || applied.provisional {
            return;
        }
        sock.set_passed(digest::passed(&SECRET, to, applied.pair()));
    } else {
        sock.set_destination(to);
        sock.set_mode(sock.mode().dialled(action));
    }
}

/// Notes that the policy that applies now allows the socket's destination too.
#[inline(always)]
pub fn renew(sock: Sock<'_>, applied: &Applied) {
    if !applied.provisional {
        sock.set_judged(applied.pair());
    }
}
