//! Datagrams with an address of their own, and the peer address that a redirected socket shows.

use crate::bpf::connect::{destination4, destination6, redirected, settle, sock};
use crate::bpf::event;
use crate::bpf::judge::{judge, policy_of, state, state_or_new};
use crate::bpf::socket::note_task;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use core::ptr;
use egress_ebpf::abi::action;
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
    let Some(state) = state_or_new(sock(ctx)) else {
        event::denied(None, None, to, Reason::State, hook);
        return Verdict::Deny(Reason::State).return_code();
    };
    let applied = policy_of(state);
    // A stream of datagrams to one place is judged once a generation.
    if state.action == action::ALLOW
        && state.generation == applied.policy.generation
        && state.port == to.port
        && state.dialled == to.addr
        && state.proto == to.proto
    {
        return Verdict::Allow.return_code();
    }
    if state.netns == 0 {
        // SAFETY: takes no pointer but the context.
        state.netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    }
    note_task(state);
    let verdict = match judge(&applied, state.netns, to) {
        // The proxy takes connections only.
        Verdict::Proxy => Verdict::Deny(Reason::NoProxy),
        other => other,
    };
    settle(state, &applied, to, verdict, hook);
    verdict.return_code()
}

/// getpeername() and recvmsg() on an IPv4 socket: a redirected flow shows where it was going.
#[inline(always)]
pub fn peer4(ctx: &SockAddrContext) -> i32 {
    if let Some(state) = state(sock(ctx)) {
        if redirected(state) {
            // SAFETY: context fields that these hooks may write.
            unsafe {
                ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip4, state.dialled.be[3]);
                ptr::write_volatile(
                    &raw mut (*ctx.sock_addr).user_port,
                    u32::from(state.port.to_be()),
                );
            }
        }
    }
    Verdict::Allow.return_code()
}

/// getpeername() and recvmsg() on an IPv6 socket.
#[inline(always)]
pub fn peer6(ctx: &SockAddrContext) -> i32 {
    if let Some(state) = state(sock(ctx)) {
        if redirected(state) {
            let words = state.dialled.be;
            // SAFETY: context fields that these hooks may write.
            unsafe {
                let ip = &raw mut (*ctx.sock_addr).user_ip6;
                ptr::write_volatile(&raw mut (*ip)[0], words[0]);
                ptr::write_volatile(&raw mut (*ip)[1], words[1]);
                ptr::write_volatile(&raw mut (*ip)[2], words[2]);
                ptr::write_volatile(&raw mut (*ip)[3], words[3]);
                ptr::write_volatile(
                    &raw mut (*ctx.sock_addr).user_port,
                    u32::from(state.port.to_be()),
                );
            }
        }
    }
    Verdict::Allow.return_code()
}
