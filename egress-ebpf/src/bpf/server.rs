//! Servers of workloads: their answers may leave, to every client that has connected to them.
//!
//! An accepted socket starts with a copy of its listener's state, which the kernel makes before the accepting task
//! can see the socket.

use crate::bpf::context::{self, LISTEN, NEW_SYN_RECV, SYN_SENT};
use crate::bpf::sock::Sock;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::programs::SockOpsContext;
use core::ptr;
use egress_ebpf::abi::{Mode, proto, socket_flag};

/// Whether a stream's socket is a listener or was accepted by one, so that its answers may leave. An accepted socket
/// starts with a copy of its listener's state, which has no destination. A client's socket has a destination since
/// its connect, or has not sent its first packet yet.
#[inline(always)]
pub fn is_accepted(sock: Sock<'_>, mode: Mode, tcp_state: u32) -> bool {
    let unasked = mode.has(socket_flag::OWNED) && mode.action() == 0;
    sock.proto() == proto::TCP
        && (unasked && tcp_state != SYN_SENT || mode.is_inbound(sock.answered()))
}

/// Notes that a listener answers a handshake, because an accepted socket starts with a copy of the listener's state.
/// The listener may have no state, if it is older than the gate, or a destination, if it was a client before.
///
/// Runs without the socket's lock, so the socket may have become a client's when this writes. The mode is read before
/// the socket's TCP state, and a `connect` comes after that state has changed, so what is written is valid only for
/// the mode before the `connect`. A processor would have to reorder these two reads across a system call to break
/// this, and then it would only let through a flow that was listed at its connect.
///
/// # Safety
/// `sk` is a full socket that the verifier accepts.
#[inline(always)]
pub unsafe fn note_listener(sk: *mut bpf_sock) {
    // Without memory, the answers of accepted sockets are denied.
    let Some(sock) = Sock::find_or_make(sk.cast()) else {
        return;
    };
    let mode = sock.mode();
    // SAFETY: a field of `bpf_sock` that cgroup_skb may read.
    let now = unsafe { ptr::read_volatile(&raw const (*sk).state) };
    if matches!(now, LISTEN | NEW_SYN_RECV) {
        sock.set_proto(proto::TCP);
        sock.set_answered(mode.answers());
    }
}

/// Runs on the sockets of workloads if the kernel runs no egress hook for a listener's answer over IPv6. Marks sockets
/// that a listener older than the gate accepts. Nobody else sees the socket yet.
#[inline(always)]
pub fn accepted(ctx: &SockOpsContext) {
    if let Some(sock) = context::accepted(ctx).and_then(Sock::find_or_make) {
        sock.set_mode(sock.mode().with(socket_flag::INBOUND));
        sock.set_proto(proto::TCP);
    }
}
