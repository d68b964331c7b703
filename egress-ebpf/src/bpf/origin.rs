//! The original destination of a redirected flow, carried from the client's socket to the proxy's.
//!
//! Published under the client's address before the SYN, taken over into the accepted socket when
//! the handshake ends, and deleted there: nothing keyed by an address outlives the handshake, so
//! a reused port can never be told the destination of the one before it.

use crate::bpf::connect::redirected;
use crate::bpf::judge::{state, state_or_new};
use crate::bpf::maps::{FLOWS, ORIGINS, count};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_sk_storage_get,
};
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::warn;
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::abi::{FlowKey, FlowOrigin, OWNER_DEPTH, counter, proto, socket_flag};
use egress_ebpf::addr::Addr;

/// `BPF_SOCK_OPS_TCP_CONNECT_CB`: before the SYN, source port chosen.
const CONNECT: u32 = 3;
/// `BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB`: before the accepting task can see the socket.
const PASSIVE_ESTABLISHED: u32 = 5;
/// `BPF_SOCK_OPS_STATE_CB`, asked for by flag: before `tcp_set_state` acts on the new state.
const STATE: u32 = 10;
const STATE_FLAG: i32 = 4;
const TCP_CLOSE: u32 = 7;
const AF_INET: u32 = 2;

/// On the sockets of workloads: publishes redirected flows, marks accepted ones.
#[inline(always)]
pub fn workload(ctx: &SockOpsContext) -> u32 {
    // SAFETY: context fields that sock_ops may read.
    let (op, new_state, sk) = unsafe {
        (
            ptr::read_volatile(&raw const (*ctx.ops).op),
            ptr::read_volatile(&raw const (*ctx.ops).__bindgen_anon_1.args[1]),
            sock(ctx),
        )
    };
    if sk.is_null() {
        return 1;
    }
    match op {
        CONNECT => publish(ctx, sk),
        STATE if new_state == TCP_CLOSE => withdraw(ctx, sk),
        PASSIVE_ESTABLISHED => {
            if let Some(state) = state_or_new(sk) {
                state.flags |= socket_flag::INBOUND;
                state.proto = proto::TCP;
            }
        }
        _ => {}
    }
    1
}

#[inline(always)]
fn publish(ctx: &SockOpsContext, sk: *mut c_void) {
    let Some(state) = state(sk) else { return };
    if !redirected(state) {
        return;
    }
    let key = client_key(ctx, state.netns);
    let origin = FlowOrigin {
        cgroup: state.owner[OWNER_DEPTH - 1],
        // SAFETY: takes no pointer but the context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        netns: state.netns,
        addr: state.dialled,
        port: state.port,
        proto: proto::TCP,
        reserved: 0,
        policy: state.policy,
        pid: state.pid,
        reserved2: 0,
        comm: state.comm,
    };
    // An entry that is there already belongs to a handshake of this very address that came to
    // nothing: its socket is gone, or this one could not have the port.
    if FLOWS.insert(&key, &origin, 0).is_ok() {
        state.flags |= socket_flag::PUBLISHED;
        // Refused only for unknown flags; an entry left behind is then replaced by the next flow
        // from this address.
        let _ = ctx.set_cb_flags(STATE_FLAG);
    } else {
        // The backstop drops the SYN of a redirected socket that is not published.
        count(counter::FLOWS_FULL);
        warn!(
            ctx,
            "flow table full: a redirected flow of pid {} is refused", state.pid
        );
    }
}

/// Deletes the entry of a flow whose handshake came to nothing. Runs before the port is free for
/// another socket; the cookie tells an entry that another socket has put in its place.
#[inline(always)]
fn withdraw(ctx: &SockOpsContext, sk: *mut c_void) {
    let Some(state) = state(sk) else { return };
    if !redirected(state) {
        return;
    }
    let key = client_key(ctx, state.netns);
    // SAFETY: the cookie is one word, copied out at once; taking it needs no pointer but the
    // context.
    let own = unsafe {
        FLOWS
            .get(&key)
            .is_some_and(|flow| flow.cookie == bpf_get_socket_cookie(ctx.as_ptr()))
    };
    if own {
        // Deleting can only fail if the entry is gone, which is what is wanted.
        let _ = FLOWS.remove(&key);
    }
}

/// The key of a flow as its client sees it.
#[inline(always)]
fn client_key(ctx: &SockOpsContext, netns: u64) -> FlowKey {
    let ends = Ends::read(ctx);
    FlowKey {
        netns,
        addr: ends.local(),
        port: ends.local_port as u16,
        proto: proto::TCP,
        reserved: [0; 5],
    }
}

/// On the agent's sockets: takes the origin over into the accepted socket.
#[inline(always)]
pub fn agent(ctx: &SockOpsContext) -> u32 {
    // SAFETY: context fields that sock_ops may read.
    let (op, sk) = unsafe { (ptr::read_volatile(&raw const (*ctx.ops).op), sock(ctx)) };
    if op != PASSIVE_ESTABLISHED || sk.is_null() {
        return 1;
    }
    let ends = Ends::read(ctx);
    let key = FlowKey {
        // SAFETY: takes no pointer but the context.
        netns: unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
        addr: ends.remote(),
        // In the upper half, big-endian (sock_ops_convert_ctx_access in net/core/filter.c).
        port: u32::from_be(ends.remote_port) as u16,
        proto: proto::TCP,
        reserved: [0; 5],
    };
    // SAFETY: read and copied before the entry is deleted below; nobody else deletes it.
    let Some(origin) = (unsafe { FLOWS.get(&key) }) else {
        return 1;
    };
    let map = ptr::from_ref(&ORIGINS).cast_mut().cast();
    let create = BPF_SK_STORAGE_GET_F_CREATE as u64;
    // SAFETY: the verifier holds `map` and `sk` to their types; no one else sees the socket yet.
    unsafe {
        let slot = bpf_sk_storage_get(map, sk, ptr::null_mut(), create).cast::<FlowOrigin>();
        if let Some(slot) = slot.as_mut() {
            *slot = *origin;
        }
    }
    // Deleting can only fail if the entry is gone, which is what is wanted.
    let _ = FLOWS.remove(&key);
    1
}

#[inline(always)]
unsafe fn sock(ctx: &SockOpsContext) -> *mut c_void {
    // SAFETY: a context field that sock_ops may read; may be null for a request socket.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk.cast() }
}

/// Both ends of a connection, every field read before any branch (see `connect::destination4`).
struct Ends {
    family: u32,
    local4: u32,
    local6: [u32; 4],
    local_port: u32,
    remote4: u32,
    remote6: [u32; 4],
    remote_port: u32,
}

impl Ends {
    #[inline(always)]
    fn read(ctx: &SockOpsContext) -> Self {
        // SAFETY: context fields that sock_ops may read.
        unsafe {
            let ops = ctx.ops;
            let l6 = &raw const (*ops).local_ip6;
            let r6 = &raw const (*ops).remote_ip6;
            Self {
                family: ptr::read_volatile(&raw const (*ops).family),
                local4: ptr::read_volatile(&raw const (*ops).local_ip4),
                local6: [
                    ptr::read_volatile(&raw const (*l6)[0]),
                    ptr::read_volatile(&raw const (*l6)[1]),
                    ptr::read_volatile(&raw const (*l6)[2]),
                    ptr::read_volatile(&raw const (*l6)[3]),
                ],
                local_port: ptr::read_volatile(&raw const (*ops).local_port),
                remote4: ptr::read_volatile(&raw const (*ops).remote_ip4),
                remote6: [
                    ptr::read_volatile(&raw const (*r6)[0]),
                    ptr::read_volatile(&raw const (*r6)[1]),
                    ptr::read_volatile(&raw const (*r6)[2]),
                    ptr::read_volatile(&raw const (*r6)[3]),
                ],
                remote_port: ptr::read_volatile(&raw const (*ops).remote_port),
            }
        }
    }

    #[inline(always)]
    fn local(&self) -> Addr {
        if self.family == AF_INET {
            Addr::from_v4_be(self.local4)
        } else {
            Addr::from_v6_be(self.local6)
        }
    }

    #[inline(always)]
    fn remote(&self) -> Addr {
        if self.family == AF_INET {
            Addr::from_v4_be(self.remote4)
        } else {
            Addr::from_v6_be(self.remote6)
        }
    }
}
