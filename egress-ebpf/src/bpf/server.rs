//! Servers of workloads: their answers go out, to whoever connected to them.
//!
//! What a listener accepts begins with a copy of its state, made by the kernel before the accepting
//! task can see the socket.

use crate::bpf::backstop::SYN_SENT;
use crate::bpf::judge::state_or_new;
use crate::bpf::origin::{PASSIVE_ESTABLISHED, sock};
use aya_ebpf::programs::SockOpsContext;
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::abi::{SocketState, proto, socket_flag};

/// Whether a stream's socket is a listener or was accepted by one, whose answers go out. An accepted
/// socket begins with a copy of its listener's state, which has no destination; a client's has one
/// since its connect, or it is still to send its first packet.
#[inline(always)]
pub fn is_accepted(state: &SocketState, tcp_state: u32) -> bool {
    let unasked = state.flags & socket_flag::OWNED != 0 && state.action == 0;
    state.proto == proto::TCP
        && (state.flags & socket_flag::INBOUND != 0 || unasked && tcp_state != SYN_SENT)
}

/// A listener answers a handshake: what it accepts begins with a copy of its state. It has none if
/// it is older than the gate, and a destination if it was a client's before.
#[inline(always)]
pub fn note_listener(sk: *mut c_void) {
    // Out of memory, what it accepts is refused.
    let Some(state) = state_or_new(sk) else {
        return;
    };
    if state.flags & socket_flag::OWNED == 0 {
        state.flags |= socket_flag::INBOUND;
    }
    state.action = 0;
    state.proto = proto::TCP;
}

/// On the sockets of workloads, where the kernel runs no egress hook for a listener's answer over
/// IPv6: marks what a listener older than the gate accepts.
#[inline(always)]
pub fn accepted(ctx: &SockOpsContext) -> u32 {
    // SAFETY: context fields that sock_ops may read.
    let (op, sk) = unsafe { (ptr::read_volatile(&raw const (*ctx.ops).op), sock(ctx)) };
    if op == PASSIVE_ESTABLISHED && !sk.is_null() {
        if let Some(state) = state_or_new(sk) {
            state.flags |= socket_flag::INBOUND;
            state.proto = proto::TCP;
        }
    }
    1
}
