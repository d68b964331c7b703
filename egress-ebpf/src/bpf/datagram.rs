//! Datagrams that are sent to an address, and the peer address that a redirected socket shows.

use crate::bpf::answers::{answers, cookie, note_peer};
use crate::bpf::claims::{deny_claim, names_a_source, older_claims};
use crate::bpf::context::{
    destination4, destination6, redirect4, redirect6, show4, show6, sock_of,
};
use crate::bpf::dns;
use crate::bpf::event;
use crate::bpf::judge::{fresh, has_passed, judge, policy_of};
use crate::bpf::maps::count;
use crate::bpf::sender::may_claim;
use crate::bpf::settle::settle;
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::programs::SockAddrContext;
use egress_ebpf::abi::counter;
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// sendto()/sendmsg() with an IPv4 (or mapped) address.
#[inline(always)]
pub fn send4(ctx: &SockAddrContext) -> i32 {
    // For IPv4 the kernel checks the source, unless the socket has `IP_TRANSPARENT`.
    let to = destination4(ctx);
    let (code, port) = send(ctx, &to, Hook::Sendmsg4);
    if port != 0 {
        redirect4(ctx, port);
    }
    code
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
    let (code, port) = send(ctx, &to, Hook::Sendmsg6);
    if port != 0 {
        redirect6(ctx, &to, port);
    }
    code
}

/// The return code, and the agent's port to which the datagram is redirected; 0: it is not.
#[inline(always)]
fn send(ctx: &SockAddrContext, to: &Destination, hook: Hook) -> (i32, u16) {
    const ALLOWED: (i32, u16) = (Verdict::Allow.return_code(), 0);
    let Some(sock) = Sock::find_or_make(sock_of(ctx)) else {
        return (
            event::deny(None, None, to, Reason::State, hook).return_code(),
            0,
        );
    };
    if older_claims(ctx, sock, to) {
        let verdict = deny_claim(ctx, to, true, hook);
        if verdict != Verdict::Allow.return_code() {
            return (verdict, 0);
        }
    }
    // Datagrams to the same destination are judged once for each generation.
    if fresh(sock).is_some_and(|judged| has_passed(sock, to, judged)) {
        return ALLOWED;
    }
    let applied = policy_of(sock);
    let netns = sock.netns_or_ask(ctx.as_ptr());
    sock.note_process();
    // The egress hook judges the datagram: there the kernel can return the socket's owner.
    if applied.is_unknown() {
        return ALLOWED;
    }
    let (verdict, port) = match judge(&applied, netns, to) {
        Verdict::Dns => dns::redirect(ctx, sock, to),
        Verdict::Deny(Reason::ProxyPort) if dns::was_redirected(ctx, to) => return ALLOWED,
        // Not remembered, so the next answer needs a peer that wrote first too.
        Verdict::Deny(Reason::NotListed) if answers(cookie(ctx), to) => {
            count(counter::ANSWERED);
            return ALLOWED;
        }
        // The proxy takes connections only.
        Verdict::Proxy => (Verdict::Deny(Reason::NoProxy), 0),
        other => (other, 0),
    };
    let verdict = settle(sock, &applied, to, verdict, hook);
    (verdict.return_code(), port)
}

/// recvmsg() on an IPv4 socket.
#[inline(always)]
pub fn receive4(ctx: &SockAddrContext) -> i32 {
    let from = destination4(ctx);
    if !dns::restore4(ctx, &from) {
        note_peer(ctx, &from);
    }
    Verdict::Allow.return_code()
}

/// recvmsg() on an IPv6 socket.
#[inline(always)]
pub fn receive6(ctx: &SockAddrContext) -> i32 {
    let from = destination6(ctx);
    if !dns::restore6(ctx, &from) {
        note_peer(ctx, &from);
    }
    Verdict::Allow.return_code()
}

/// getpeername() on an IPv4 socket: a redirected flow shows its original destination.
#[inline(always)]
pub fn peer4(ctx: &SockAddrContext) -> i32 {
    let peer = destination4(ctx);
    if dns::restore4(ctx, &peer) {
        return Verdict::Allow.return_code();
    }
    if let Some(sock) = Sock::find(sock_of(ctx)) {
        if sock.mode().is_redirected() {
            show4(ctx, sock.dialled().be[3], sock.port());
        }
    }
    Verdict::Allow.return_code()
}

/// getpeername() on an IPv6 socket.
#[inline(always)]
pub fn peer6(ctx: &SockAddrContext) -> i32 {
    let peer = destination6(ctx);
    if dns::restore6(ctx, &peer) {
        return Verdict::Allow.return_code();
    }
    if let Some(sock) = Sock::find(sock_of(ctx)) {
        if sock.mode().is_redirected() {
            show6(ctx, sock.dialled().be, sock.port());
        }
    }
    Verdict::Allow.return_code()
}
