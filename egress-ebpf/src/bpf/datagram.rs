//! Datagrams with an address of their own, answers to peers that wrote first, and the peer address
//! that a redirected socket shows.

use crate::bpf::connect::{destination4, destination6, settle, sock_of};
use crate::bpf::event;
use crate::bpf::heard;
use crate::bpf::judge::{fresh, has_passed, judge, of_peer, policy_of};
use crate::bpf::maps::{PEERS, SHARES, count};
use crate::bpf::sender;
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns};
use aya_ebpf::programs::SockAddrContext;
use core::ptr;
use egress_ebpf::abi::{
    ANSWER_NS, DenySeen, PEERS_PER_SECOND, PeerKey, REPEAT_NS, counter, policy_flag, proto,
    socket_flag,
};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// `BPF_EXIST` of include/uapi/linux/bpf.h: only what is there is written.
const BPF_EXIST: u64 = 2;

/// sendto()/sendmsg() with an IPv4 (or mapped) address.
#[inline(always)]
pub fn send4(ctx: &SockAddrContext) -> i32 {
    // For IPv4 the kernel looks the source up, unless the socket has `IP_TRANSPARENT`.
    send(ctx, &destination4(ctx), Hook::Sendmsg4)
}

/// sendto()/sendmsg() with an IPv6 address.
#[inline(always)]
pub fn send6(ctx: &SockAddrContext) -> i32 {
    let to = destination6(ctx);
    if names_a_source(ctx) && sender::may_claim(sock_of(ctx).cast(), true) {
        let verdict = refuse_claim(ctx, &to, true, Hook::Sendmsg6);
        if verdict != Verdict::Allow.return_code() {
            return verdict;
        }
    }
    send(ctx, &to, Hook::Sendmsg6)
}

/// Whether this datagram names another source than its socket is bound to (`IPV6_PKTINFO`).
#[inline(always)]
fn names_a_source(ctx: &SockAddrContext) -> bool {
    let sk = sock_of(ctx).cast::<bpf_sock>();
    // SAFETY: context fields that sendmsg6 may read, and fields of a full socket.
    let (from, own) = unsafe {
        let from = &raw const (*ctx.sock_addr).msg_src_ip6;
        let own = &raw const (*sk).src_ip6;
        (
            [
                ptr::read_volatile(&raw const (*from)[0]),
                ptr::read_volatile(&raw const (*from)[1]),
                ptr::read_volatile(&raw const (*from)[2]),
                ptr::read_volatile(&raw const (*from)[3]),
            ],
            [
                ptr::read_volatile(&raw const (*own)[0]),
                ptr::read_volatile(&raw const (*own)[1]),
                ptr::read_volatile(&raw const (*own)[2]),
                ptr::read_volatile(&raw const (*own)[3]),
            ],
        )
    };
    from != own && !Addr::from_v6_be(from).is_loopback()
}

/// Whether a socket that is older than the gate claims a source. A datagram to an IPv4 group comes
/// back to this node's sockets before the egress hook sees it (`ip_mc_output` sends a copy without a
/// socket first).
#[inline(always)]
pub fn older_claims(ctx: &SockAddrContext, sock: Sock<'_>, to: &Destination) -> bool {
    !sock.mode().has(socket_flag::OWNED)
        && sender::older_claims(sock_of(ctx).cast(), !to.addr.is_v4())
}

/// Denies what claims a source address that the kernel does not vouch for.
#[inline(always)]
pub fn refuse_claim(ctx: &SockAddrContext, to: &Destination, claims: bool, hook: Hook) -> i32 {
    if !claims {
        return Verdict::Allow.return_code();
    }
    let sock = Sock::find_or_make(sock_of(ctx));
    let applied = sock.map(policy_of);
    if applied.is_some_and(|a| a.policy.flags & policy_flag::ALLOW_ANY != 0) {
        return Verdict::Allow.return_code();
    }
    if let Some(sock) = sock {
        sock.netns_or_ask(ctx.as_ptr());
        sock.note_task();
    }
    event::refuse(sock, applied.as_ref(), to, Reason::ForgedSource, hook).return_code()
}

#[inline(always)]
fn send(ctx: &SockAddrContext, to: &Destination, hook: Hook) -> i32 {
    let Some(sock) = Sock::find_or_make(sock_of(ctx)) else {
        return event::refuse(None, None, to, Reason::State, hook).return_code();
    };
    if older_claims(ctx, sock, to) {
        let verdict = refuse_claim(ctx, to, true, hook);
        if verdict != Verdict::Allow.return_code() {
            return verdict;
        }
    }
    // A stream of datagrams to one place is judged once a generation.
    if fresh(sock).is_some_and(|judged| has_passed(sock, to, judged)) {
        return Verdict::Allow.return_code();
    }
    let applied = policy_of(sock);
    let netns = sock.netns_or_ask(ctx.as_ptr());
    sock.note_process();
    // The datagram is judged on egress, where the kernel can tell whose the socket is.
    if applied.is_unknown() {
        return Verdict::Allow.return_code();
    }
    let verdict = match judge(&applied, netns, to) {
        // Not remembered: the next answer needs a peer that wrote, too.
        Verdict::Deny(Reason::NotListed) if answers(cookie(ctx), to) => {
            count(counter::ANSWERED);
            return Verdict::Allow.return_code();
        }
        // The proxy takes connections only.
        Verdict::Proxy => Verdict::Deny(Reason::NoProxy),
        other => other,
    };
    settle(sock, &applied, to, verdict, hook).return_code()
}

/// Whether a datagram answers a peer that wrote to this very socket and was read from it.
#[inline(always)]
pub fn answers(cookie: u64, to: &Destination) -> bool {
    if to.proto != proto::UDP {
        return false;
    }
    let Some(word) = PEERS.get_ptr(&peer_key(cookie, to)) else {
        return false;
    };
    // SAFETY: an element of the map, which stays mapped while the program runs; one word. The clock
    // takes no argument.
    unsafe {
        let at = ptr::read_volatile(word).wrapping_sub(of_peer(cookie, to));
        bpf_ktime_get_ns().wrapping_sub(at) < ANSWER_NS
    }
}

#[inline(always)]
fn peer_key(cookie: u64, peer: &Destination) -> PeerKey {
    PeerKey {
        cookie,
        addr: peer.addr,
        port: peer.port,
        reserved: [0; 6],
    }
}

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: takes no pointer but the context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// recvmsg() on an IPv4 socket.
#[inline(always)]
pub fn receive4(ctx: &SockAddrContext) -> i32 {
    note_peer(ctx, &destination4(ctx));
    peer4(ctx)
}

/// recvmsg() on an IPv6 socket.
#[inline(always)]
pub fn receive6(ctx: &SockAddrContext) -> i32 {
    note_peer(ctx, &destination6(ctx));
    peer6(ctx)
}

/// Notes a peer that a server has read a datagram from, unless this socket wrote to it last: a
/// client's own questions need no leave to answer.
#[inline(always)]
fn note_peer(ctx: &SockAddrContext, peer: &Destination) {
    // Without state the answer is denied, which is the default.
    let Some(sock) = Sock::find_or_make(sock_of(ctx)) else {
        return;
    };
    if fresh(sock).is_some_and(|judged| has_passed(sock, peer, judged)) {
        return;
    }
    let cookie = cookie(ctx);
    let key = peer_key(cookie, peer);
    // SAFETY: takes no argument and only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(at) = heard::arrival(sock_of(ctx), sock, now) else {
        return;
    };
    let word = at.wrapping_add(of_peer(cookie, peer));
    // Without room the answer is denied too.
    if PEERS.insert(&key, &word, BPF_EXIST).is_err() && within_share(sock.cgroup(), now) {
        let _ = PEERS.insert(&key, &word, 0);
    }
}

/// Whether a workload has noted fewer peers in this second than it may: whoever is written to from
/// many addresses does not push its neighbours' peers out of the table at once.
#[inline(always)]
fn within_share(cgroup: u64, at: u64) -> bool {
    let Some(seen) = SHARES.get_ptr_mut(&cgroup) else {
        let first = DenySeen { at, repeated: 1 };
        return SHARES.insert(&cgroup, &first, 0).is_ok();
    };
    // SAFETY: an element of the map, which stays mapped while the program runs; words that other
    // CPUs may write too: a share is no verdict, and some peers more or fewer do not matter.
    unsafe {
        if at.wrapping_sub(ptr::read_volatile(&raw const (*seen).at)) >= REPEAT_NS {
            ptr::write_volatile(&raw mut (*seen).at, at);
            ptr::write_volatile(&raw mut (*seen).repeated, 0);
        }
        let noted = ptr::read_volatile(&raw const (*seen).repeated) + 1;
        ptr::write_volatile(&raw mut (*seen).repeated, noted);
        noted <= PEERS_PER_SECOND
    }
}

/// getpeername() on an IPv4 socket: a redirected flow shows where it was going.
#[inline(always)]
pub fn peer4(ctx: &SockAddrContext) -> i32 {
    if let Some(sock) = Sock::find(sock_of(ctx)) {
        if sock.mode().is_redirected() {
            // SAFETY: context fields that these hooks may write.
            unsafe {
                ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip4, sock.dialled().be[3]);
                ptr::write_volatile(
                    &raw mut (*ctx.sock_addr).user_port,
                    u32::from(sock.port().to_be()),
                );
            }
        }
    }
    Verdict::Allow.return_code()
}

/// getpeername() on an IPv6 socket.
#[inline(always)]
pub fn peer6(ctx: &SockAddrContext) -> i32 {
    if let Some(sock) = Sock::find(sock_of(ctx)) {
        if sock.mode().is_redirected() {
            let words = sock.dialled().be;
            // SAFETY: context fields that these hooks may write.
            unsafe {
                let ip = &raw mut (*ctx.sock_addr).user_ip6;
                ptr::write_volatile(&raw mut (*ip)[0], words[0]);
                ptr::write_volatile(&raw mut (*ip)[1], words[1]);
                ptr::write_volatile(&raw mut (*ip)[2], words[2]);
                ptr::write_volatile(&raw mut (*ip)[3], words[3]);
                ptr::write_volatile(
                    &raw mut (*ctx.sock_addr).user_port,
                    u32::from(sock.port().to_be()),
                );
            }
        }
    }
    Verdict::Allow.return_code()
}
