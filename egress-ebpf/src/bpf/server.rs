//! Servers of workloads: their answers may leave, to every client that connected to them.
//!
//! An accepted socket begins with a copy of its listener's state, which the kernel makes before the
//! accepting task can see the socket.

use crate::bpf::context::{self, LISTEN, NEW_SYN_RECV, SYN_SENT};
use crate::bpf::sock::Sock;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::programs::SockOpsContext;
use core::ptr;
use egress_ebpf::abi::{Mode, proto, socket_flag};

/// Whether a stream's socket is a listener or was accepted by one, whose answers go out. An accepted
/// socket begins with a copy of its listener's state, which has no destination; a client's has one
/// since its connect, or it is still to send its first packet.
#[inline(always)]
pub fn is_accepted(sock: Sock<'_>, mode: Mode, tcp_state: u32) -> bool {
    let unasked = mode.has(socket_flag::OWNED) && mode.action() == 0;
    sock.proto() == proto::TCP
        && (unasked && tcp_state != SYN_SENT || mode.is_inbound(sock.answered()))
}

/// A listener answers a handshake: what it accepts begins with a copy of its state. It has none if
/// it is older than the gate, and a destination if it was a client's before.
///
/// Runs without the socket's lock: by the time that this is written the socket may be a client's. The
/// mode is read before the socket's state, and a `connect` comes after the state has changed: what is
/// written then counts for the mode before it, and no more. A processor that reads the two in the
/// other order would have to do so a system call apart; what it let through was listed at its connect.
///
/// # Safety
/// `sk` is a full socket that the verifier knows.
#[inline(always)]
pub unsafe fn note_listener(sk: *mut bpf_sock) {
    // Out of memory, what it accepts is denied.
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

/// On the sockets of workloads, where the kernel runs no egress hook for a listener's answer over
/// IPv6: marks what a listener older than the gate accepts. Nobody else sees the socket yet.
#[inline(always)]
pub fn accepted(ctx: &SockOpsContext) {
    if let Some(sock) = context::accepted(ctx).and_then(Sock::find_or_make) {
        sock.set_mode(sock.mode().with(socket_flag::INBOUND));
        sock.set_proto(proto::TCP);
    }
}
