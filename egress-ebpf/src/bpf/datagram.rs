//! Datagrams that are sent to an address, and the peer address that a redirected socket shows.

use crate::bpf::answers::{answers, cookie, note_peer};
use crate::bpf::claims::{deny_claim, names_a_source, older_claims};
use crate::bpf::context::{destination4, destination6, sock_of};
use crate::bpf::event;
use crate::bpf::judge::{fresh, has_passed, judge, policy_of};
use crate::bpf::maps::count;
use crate::bpf::sender::may_claim;
use crate::bpf::settle::settle;
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::SockAddrContext;
use core::ptr;
use egress_ebpf::abi::counter;
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// sendto()/sendmsg() with an IPv4 (or mapped) address.
#[inline(always)]
pub fn send4(ctx: &SockAddrContext) -> i32 {
    // For IPv4 the kernel checks the source, unless the socket has `IP_TRANSPARENT`.
    send(ctx, &destination4(ctx), Hook::Sendmsg4)
}

/// sendto()/sendmsg() with an IPv6 address.
#[inline(always)]
pub fn send6(ctx: &SockAddrContext) -> i32 {
    let to = destination6(ctx);
    if names_a_source(ctx) && may_claim(sock_of(ctx).cast(), true) {
        let verdict = deny_claim(ctx, &to, true, Hook::Sendmsg6);
        if verdict != Verdict::Allow.return_code() {
            return verdict;
        }
    }
    send(ctx, &to, Hook::Sendmsg6)
}

#[inline(always)]
fn send(ctx: &SockAddrContext, to: &Destination, hook: Hook) -> i32 {
    let Some(sock) = Sock::find_or_make(sock_of(ctx)) else {
        return event::deny(None, None, to, Reason::State, hook).return_code();
    };
    if older_claims(ctx, sock, to) {
        let verdict = deny_claim(ctx, to, true, hook);
        if verdict != Verdict::Allow.return_code() {
            return verdict;
        }
    }
    // Datagrams to the same destination are judged once for each generation.
    if fresh(sock).is_some_and(|judged| has_passed(sock, to, judged)) {
        return Verdict::Allow.return_code();
    }
    let applied = policy_of(sock);
    let netns = sock.netns_or_ask(ctx.as_ptr());
    sock.note_process();
    // The egress hook judges the datagram: there the kernel can return the socket's owner.
    if applied.is_unknown() {
        return Verdict::Allow.return_code();
    }
    let verdict = match judge(&applied, netns, to) {
        // Not remembered, so the next answer needs a peer that wrote first too.
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

/// getpeername() on an IPv4 socket: a redirected flow shows its original destination.
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
