//! The listening sockets of the proxy and the DNS server: checks that one exists, keeps workloads from binding its
//! port, and keeps its answers on the node. The agent admits the sockets.

use crate::bpf::claims::deny_claim;
use crate::bpf::context::{
    LISTEN, LOOPBACK, LOOPBACK4, LOOPBACK6, SOCK_DGRAM, destination4, destination6, sock_of,
};
use crate::bpf::event;
use crate::bpf::judge::{is_dns_port, policy_of, proxy_port};
use crate::bpf::maps::LISTENERS;
use crate::bpf::sender;
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2,
};
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_sk_fullsock, bpf_sk_lookup_tcp, bpf_sk_lookup_udp, bpf_sk_release,
    bpf_sk_storage_get,
};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::abi::proto;
use egress_ebpf::decide::Destination;
use egress_ebpf::ids::NetnsCookie;
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// `BPF_F_CURRENT_NETNS`: the namespace of the calling socket.
const OWN_NETNS: u64 = u64::MAX;

/// Whether the agent listens on this port of the loopback address, in the network namespace of the calling socket.
/// A listener of another process does not count.
#[inline(always)]
pub fn is_there(ctx: &SockAddrContext, v4: bool, port: u16, protocol: u8) -> bool {
    // The lookup is for a packet from the client. Source port 0 keeps it from finding an established connection.
    let (mut tuple, length) = if v4 {
        let ipv4 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
            saddr: LOOPBACK4,
            daddr: LOOPBACK4,
            sport: 0,
            dport: port.to_be(),
        };
        (bpf_sock_tuple__bindgen_ty_1 { ipv4 }, 12)
    } else {
        let ipv6 = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 {
            saddr: LOOPBACK6,
            daddr: LOOPBACK6,
            sport: 0,
            dport: port.to_be(),
        };
        (bpf_sock_tuple__bindgen_ty_1 { ipv6 }, 36)
    };
    // SAFETY: the tuple has the given length, and a socket that is found is released.
    unsafe {
        let tuple = (&raw mut tuple).cast::<bpf_sock_tuple>();
        let sk = if protocol == proto::TCP {
            bpf_sk_lookup_tcp(ctx.as_ptr(), tuple, length, OWN_NETNS, 0)
        } else {
            bpf_sk_lookup_udp(ctx.as_ptr(), tuple, length, OWN_NETNS, 0)
        };
        if sk.is_null() {
            return false;
        }
        let admitted = is_admitted(sk.cast());
        bpf_sk_release(sk.cast());
        admitted
    }
}

/// Whether the agent wrote an entry for this socket.
///
/// # Safety
/// `sk` is a socket pointer that the verifier accepts.
#[inline(always)]
unsafe fn is_admitted(sk: *mut c_void) -> bool {
    let map = ptr::from_ref(&LISTENERS).cast_mut().cast();
    // SAFETY: the verifier holds `map` and `sk` to their types; flags 0 make no entry.
    unsafe { !bpf_sk_storage_get(map, sk, ptr::null_mut(), 0).is_null() }
}

/// bind() of a workload to an IPv4 address.
#[inline(always)]
pub fn bind4(ctx: &SockAddrContext) -> i32 {
    bind(ctx, &destination4(ctx), Hook::Bind4)
}

/// bind() of a workload to an IPv6 address.
#[inline(always)]
pub fn bind6(ctx: &SockAddrContext) -> i32 {
    bind(ctx, &destination6(ctx), Hook::Bind6)
}

/// Keeps the agent's ports free for a restarted agent, and keeps datagram sockets from binding foreign addresses.
#[inline(always)]
fn bind(ctx: &SockAddrContext, own: &Destination, hook: Hook) -> i32 {
    // A socket binds to a group to receive its datagrams.
    let names_a_host = !own.addr.is_loopback() && own.addr.shortest_network() == 0;
    if own.proto == proto::UDP && names_a_host {
        let claims = sender::may_claim(sock_of(ctx).cast(), !own.addr.is_v4());
        return deny_claim(ctx, own, claims, hook);
    }
    if !own.addr.is_loopback() {
        return Verdict::Allow.return_code();
    }
    // SAFETY: takes no pointer but the context.
    let netns = NetnsCookie(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) });
    let agents = match own.proto {
        proto::TCP => proxy_port(netns) == Some(own.port),
        proto::UDP => is_dns_port(netns, own.port),
        _ => false,
    };
    if !agents {
        return Verdict::Allow.return_code();
    }
    let sock = Sock::find_or_make(sock_of(ctx));
    let applied = sock.map(policy_of);
    event::deny(sock, applied.as_ref(), own, Reason::ProxyPort, hook).return_code()
}

/// Runs for every packet of the agent's own sockets. Drops an answer of the proxy's listeners to a handshake, and every
/// answer of the DNS server, unless it leaves by the loopback device: a workload may claim an address outside the node
/// as the source of a redirected flow, and the answer would go there.
#[inline(always)]
pub fn answers_stay(ctx: &SkBuffContext) -> i32 {
    let verdict = if strays(ctx) {
        Verdict::Deny(Reason::ForgedSource)
    } else {
        Verdict::Allow
    };
    verdict.return_code()
}

/// Whether this is a packet of an admitted listener that leaves by another device than loopback.
#[inline(always)]
fn strays(ctx: &SkBuffContext) -> bool {
    // SAFETY: context fields that cgroup_skb may read; the socket is checked for null.
    unsafe {
        let device = ptr::read_volatile(&raw const (*ctx.skb.skb).ifindex);
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if device == LOOPBACK || sk.is_null() {
            return false;
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return false;
        }
        let listens = ptr::read_volatile(&raw const (*sk).state) == LISTEN;
        let datagrams = ptr::read_volatile(&raw const (*sk).type_) == SOCK_DGRAM;
        (listens || datagrams) && is_admitted(sk.cast())
    }
}
