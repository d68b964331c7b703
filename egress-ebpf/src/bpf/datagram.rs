//! Datagrams with an address of their own, answers to peers that wrote first, and the peer address
//! that a redirected socket shows.

use crate::bpf::connect::{destination4, destination6, settle, sock_of};
use crate::bpf::event;
use crate::bpf::judge::{fresh, has_passed, judge, policy_of};
use crate::bpf::maps::{PEERS, count};
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns};
use aya_ebpf::programs::SockAddrContext;
use core::ptr;
use egress_ebpf::abi::{ANSWER_NS, PeerKey, counter, proto};
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// sendto()/sendmsg() with an IPv4 (or mapped) address.
#[inline(always)]
pub fn send4(ctx: &SockAddrContext) -> i32 {
    send(ctx, &destination4(ctx), Hook::Sendmsg4)
}

/// sendto()/sendmsg() with an IPv6 address.
#[inline(always)]
pub fn send6(ctx: &SockAddrContext) -> i32 {
    send(ctx, &destination6(ctx), Hook::Sendmsg6)
}

#[inline(always)]
fn send(ctx: &SockAddrContext, to: &Destination, hook: Hook) -> i32 {
    let Some(sock) = Sock::find_or_make(sock_of(ctx)) else {
        return event::refuse(None, None, to, Reason::State, hook).return_code();
    };
    // A stream of datagrams to one place is judged once a generation.
    if fresh(sock).is_some_and(|judged| has_passed(sock, to, judged)) {
        return Verdict::Allow.return_code();
    }
    let applied = policy_of(sock);
    let netns = sock.netns_or_ask(ctx.as_ptr());
    sock.note_task();
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
    // SAFETY: the value is one word, copied out at once; the clock takes no argument.
    unsafe {
        PEERS
            .get(&peer_key(cookie, to))
            .is_some_and(|at| bpf_ktime_get_ns() - *at < ANSWER_NS)
    }
}

#[inline(always)]
fn peer_key(cookie: u64, peer: &Destination) -> PeerKey {
    PeerKey {
        cookie,
        addr: peer.addr.canonical(),
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
    let asked = Sock::find(sock_of(ctx))
        .is_some_and(|sock| fresh(sock).is_some_and(|judged| has_passed(sock, peer, judged)));
    if asked {
        return;
    }
    // SAFETY: takes no argument and only reads a clock.
    let at = unsafe { bpf_ktime_get_ns() };
    // Without room the answer is refused, which is the default.
    let _ = PEERS.insert(&peer_key(cookie(ctx), peer), &at, 0);
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
