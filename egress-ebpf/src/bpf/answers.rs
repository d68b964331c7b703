//! Answers to peers that wrote first: remembers which peer wrote to which socket, and when.

use crate::bpf::context::sock_of;
use crate::bpf::heard;
use crate::bpf::judge::{fresh, has_passed, of_peer};
use crate::bpf::maps::{PEERS, SHARES};
use crate::bpf::share::within_share;
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns};
use aya_ebpf::programs::SockAddrContext;
use core::ptr;
use egress_ebpf::abi::{ANSWER_NS, DenySeen, PEERS_PER_SECOND, PeerKey, REPEAT_NS, proto};
use egress_ebpf::decide::Destination;
use egress_ebpf::ids::CgroupId;

/// `BPF_EXIST` of include/uapi/linux/bpf.h: writes existing elements only.
const BPF_EXIST: u64 = 2;

/// Whether a datagram answers a peer that wrote to this socket, and whose datagram was read.
#[inline(always)]
pub fn answers(cookie: u64, to: &Destination) -> bool {
    if to.proto != proto::UDP {
        return false;
    }
    let Some(word) = PEERS.get_ptr(&peer_key(cookie, to)) else {
        return false;
    };
    // SAFETY: one word of a map element, which stays mapped while the program runs. The clock takes no
    // argument.
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

/// The cookie of a call's socket.
#[inline(always)]
pub fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: takes no pointer but the context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// Remembers the peer of a datagram that is read, unless the socket's last allowed destination is this peer:
/// a client may already send to it.
#[inline(always)]
pub fn note_peer(ctx: &SockAddrContext, peer: &Destination) {
    // Without state the answer is denied.
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
    // Without room in the table the answer is denied too.
    if PEERS.insert(&key, &word, BPF_EXIST).is_err()
        && within_share(&SHARES, PEERS_PER_SECOND, sock.cgroup(), now)
    {
        let _ = PEERS.insert(&key, &word, 0);
    }
}
