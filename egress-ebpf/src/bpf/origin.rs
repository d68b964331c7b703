//! Carries the original destination of a redirected flow from the client's socket to the proxy's.
//!
//! It is published under the client's address before the SYN leaves. When the handshake ends, it moves into the
//! accepted socket. Every redirected flow publishes its own destination before it reaches the proxy, so a reused
//! port does not get the destination of the previous flow.

use crate::bpf::context::{AF_INET, accepted};
use crate::bpf::maps::{FLOWS, ORIGINS, count};
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_sk_storage_delete, bpf_sk_storage_get,
};
use aya_ebpf::programs::{SkBuffContext, SockOpsContext};
use aya_log_ebpf::warn;
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::abi::{FlowKey, FlowOrigin, SocketState, counter, proto, socket_flag};
use egress_ebpf::addr::Addr;
use egress_ebpf::ids::NetnsCookie;

/// Publishes a redirected flow under the source address of its SYN. Returns `false` if there is no room; then the
/// SYN must not leave.
#[inline(always)]
pub fn publish(ctx: &SkBuffContext, sock: Sock<'_>, from: Addr, port: u16) -> bool {
    let key = FlowKey {
        netns: sock.netns(),
        addr: from,
        port,
        proto: proto::TCP,
        reserved: [0; 5],
    };
    let (policy, _) = SocketState::of_pair(sock.judged());
    let mut origin = FlowOrigin {
        cgroup: sock.cgroup(),
        // SAFETY: takes no pointer but the context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        netns: sock.netns(),
        addr: sock.dialled(),
        port: sock.port(),
        proto: proto::TCP,
        reserved: 0,
        policy,
        pid: sock.pid(),
        reserved2: 0,
        comm: sock.comm(),
        seal: 0,
    };
    // SAFETY: a local value.
    origin.seal = unsafe { FlowOrigin::sealed(&raw const origin, &key) };
    // An existing entry belongs to a handshake from this address that did not end. Its socket is gone, because
    // otherwise this one could not have the port.
    if FLOWS.insert(&key, &origin, 0).is_err() {
        count(counter::FLOWS_FULL);
        warn!(
            ctx,
            "no room for flows: a redirected flow of pid {} is denied",
            sock.pid()
        );
        return false;
    }
    sock.set_mode(sock.mode().with(socket_flag::PUBLISHED));
    true
}

/// Runs on the agent's sockets: moves the origin into the accepted socket.
#[inline(always)]
pub fn agent(ctx: &SockOpsContext) {
    let Some(sk) = accepted(ctx) else {
        return;
    };
    let (addr, port) = remote(ctx);
    let key = FlowKey {
        // SAFETY: takes no pointer but the context.
        netns: NetnsCookie(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }),
        addr,
        port,
        proto: proto::TCP,
        reserved: [0; 5],
    };
    let Some(found) = FLOWS.get_ptr(&key) else {
        return;
    };
    let map: *mut c_void = ptr::from_ref(&ORIGINS).cast_mut().cast();
    let create = BPF_SK_STORAGE_GET_F_CREATE as u64;
    // SAFETY: the verifier checks the types of `map` and `sk`, and nobody else sees the socket yet. The entry may be
    // written for another flow while it is copied; then the seal does not match.
    unsafe {
        let slot = bpf_sk_storage_get(map, sk, ptr::null_mut(), create).cast::<FlowOrigin>();
        if !slot.is_null() {
            *slot = *found;
            if FlowOrigin::sealed(slot, &key) != (*slot).seal {
                // Without an origin the proxy closes the connection.
                bpf_sk_storage_delete(map, sk);
                return;
            }
        }
    }
    // Deleting fails only if the entry is already gone.
    let _ = FLOWS.remove(&key);
}

/// The other end of a connection.
#[inline(always)]
fn remote(ctx: &SockOpsContext) -> (Addr, u16) {
    // SAFETY: context fields that sock_ops may read.
    unsafe {
        let ops = ctx.ops;
        let family = ptr::read_volatile(&raw const (*ops).family);
        let v4 = ptr::read_volatile(&raw const (*ops).remote_ip4);
        let v6 = &raw const (*ops).remote_ip6;
        let v6 = [
            ptr::read_volatile(&raw const (*v6)[0]),
            ptr::read_volatile(&raw const (*v6)[1]),
            ptr::read_volatile(&raw const (*v6)[2]),
            ptr::read_volatile(&raw const (*v6)[3]),
        ];
        // The port is big-endian, in the upper half (sock_ops_convert_ctx_access in net/core/filter.c).
        let port = u32::from_be(ptr::read_volatile(&raw const (*ops).remote_port)) as u16;
        if family == AF_INET as u32 {
            (Addr::from_v4_be(v4), port)
        } else {
            (Addr::from_v6_be(v6), port)
        }
    }
}
