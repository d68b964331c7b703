//! connect(): judges the destination and, for a flow that needs the proxy, turns it there.

use crate::bpf::datagram::older_claims;
use crate::bpf::event;
use crate::bpf::judge::{Applied, judge, policy_of, proxy_port, remember};
use crate::bpf::listener;
use crate::bpf::maps::count;
use crate::bpf::sender;
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_set_retval;
use aya_ebpf::programs::SockAddrContext;
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::abi::{counter, policy_flag, proto};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// 127.0.0.1 in network byte order.
const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();

/// connect() on an IPv4 socket.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> i32 {
    let to = destination4(ctx);
    let (verdict, port) = gate(ctx, &to, Hook::Connect4);
    if verdict == Verdict::Proxy {
        // SAFETY: context fields that connect4 may write.
        unsafe {
            ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip4, LOOPBACK4);
            ptr::write_volatile(&raw mut (*ctx.sock_addr).user_port, u32::from(port.to_be()));
        }
    }
    verdict.return_code()
}

/// connect() on an IPv6 socket, to an IPv6 or a mapped IPv4 address.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> i32 {
    let to = destination6(ctx);
    let (verdict, port) = gate(ctx, &to, Hook::Connect6);
    if verdict == Verdict::Proxy {
        // A mapped address keeps its family: the flow is IPv4 on the wire, and the socket may be
        // bound to a mapped source.
        let loopback = if to.addr.is_v4() {
            Addr::from_v4_be(LOOPBACK4).be
        } else {
            [0, 0, 0, 1_u32.to_be()]
        };
        // SAFETY: context fields that connect6 may write.
        unsafe {
            let ip = &raw mut (*ctx.sock_addr).user_ip6;
            ptr::write_volatile(&raw mut (*ip)[0], loopback[0]);
            ptr::write_volatile(&raw mut (*ip)[1], loopback[1]);
            ptr::write_volatile(&raw mut (*ip)[2], loopback[2]);
            ptr::write_volatile(&raw mut (*ip)[3], loopback[3]);
            ptr::write_volatile(&raw mut (*ctx.sock_addr).user_port, u32::from(port.to_be()));
        }
    }
    verdict.return_code()
}

/// The verdict, and the proxy's port where it is [`Verdict::Proxy`].
#[inline(always)]
fn gate(ctx: &SockAddrContext, to: &Destination, hook: Hook) -> (Verdict, u16) {
    // Name resolvers connect() a datagram socket to port 0 of each address, to have the kernel
    // choose a source address (RFC 6724 sorting in getaddrinfo). No packet leaves by that, and a
    // later send is judged by its packet.
    if to.proto == proto::UDP && to.port == 0 {
        return (Verdict::Allow, 0);
    }
    let Some(sock) = Sock::find_or_make(sock_of(ctx)) else {
        return (event::refuse(None, None, to, Reason::State, hook), 0);
    };
    let netns = sock.netns_or_ask(ctx.as_ptr());
    if to.proto == proto::UDP {
        sock.note_process();
    } else {
        sock.note_task();
    }
    let applied = policy_of(sock);
    let claims = if to.proto == proto::UDP {
        older_claims(ctx, sock, to)
    } else {
        applied.policy.flags & policy_flag::ALLOW_ANY == 0 && stream_claims(ctx, to)
    };
    if claims {
        sock.note_task();
        return (
            event::refuse(Some(sock), Some(&applied), to, Reason::ForgedSource, hook),
            0,
        );
    }
    // Each datagram is judged on egress, where the kernel can tell whose the socket is.
    if to.proto == proto::UDP && applied.is_unknown() {
        return (Verdict::Allow, 0);
    }
    let (verdict, port) = match judge(&applied, netns, to) {
        Verdict::Proxy => {
            let port = proxy_port(netns).unwrap_or(0);
            if listener::is_there(ctx, to.addr.is_v4(), port) {
                (Verdict::Proxy, port)
            } else {
                (Verdict::Deny(Reason::NoProxy), 0)
            }
        }
        other => (other, 0),
    };
    // The same for resolvers that hand the service's port to the kernel too: a datagram socket may
    // be connected, and show its source address, to where a stream may go. It still sends nothing:
    // nothing is remembered, and the backstop judges each datagram.
    if to.proto == proto::UDP && matches!(verdict, Verdict::Deny(_)) {
        let stream = Destination {
            proto: proto::TCP,
            ..*to
        };
        if !matches!(judge(&applied, netns, &stream), Verdict::Deny(_)) {
            return (Verdict::Allow, 0);
        }
    }
    let verdict = settle(sock, &applied, to, verdict, hook);
    (verdict, port)
}

/// Whether a stream would claim its source: the answer to its handshake would go there.
#[inline(always)]
fn stream_claims(ctx: &SockAddrContext, to: &Destination) -> bool {
    let sk = sock_of(ctx).cast();
    // Both before any branch, as in `destination4`.
    let (v4, v6) = (sender::bound4(sk), sender::bound6(sk));
    let from = if to.addr.is_v4() { v4 } else { v6 };
    !from.is_unspecified() && !from.is_loopback() && sender::may_claim(sk, !to.addr.is_v4())
}

/// Writes a verdict into the socket's state, counts it, and records a refusal. Returns what
/// becomes of the call.
#[inline(always)]
pub fn settle(
    sock: Sock<'_>,
    applied: &Applied,
    to: &Destination,
    verdict: Verdict,
    hook: Hook,
) -> Verdict {
    let verdict = match verdict {
        Verdict::Allow => {
            count(counter::ALLOWED);
            verdict
        }
        Verdict::Proxy => {
            count(counter::REDIRECTED);
            verdict
        }
        Verdict::Deny(reason) => {
            if to.proto == proto::TCP {
                sock.set_mode(sock.mode().dialled(0));
            } else {
                sock.note_task();
            }
            let verdict = event::refuse(Some(sock), Some(applied), to, reason, hook);
            if verdict != Verdict::Allow && applied.policy.errno != 0 {
                // SAFETY: a plain integer argument; connect and sendmsg may set what the caller
                // gets (kernel/bpf/cgroup.c, cgroup_base_func_proto).
                unsafe { bpf_set_retval(-(applied.policy.errno as i32)) };
            }
            verdict
        }
    };
    // Where a socket may broadcast, the egress hook remembers: it sees the route.
    if to.proto != proto::UDP || !sock.may_broadcast() {
        remember(sock, applied, to, verdict);
    }
    verdict
}

/// The socket behind an address context.
#[inline(always)]
pub fn sock_of(ctx: &SockAddrContext) -> *mut c_void {
    // SAFETY: the context's socket pointer, never null in these hooks.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk.cast() }
}

/// Where an IPv4 call is going. Every field is read before any branch: a branch on the family
/// lets the compiler merge two loads into one from a computed context offset, which the verifier
/// refuses.
#[inline(always)]
pub fn destination4(ctx: &SockAddrContext) -> Destination {
    // SAFETY: context fields that the IPv4 hooks may read.
    unsafe {
        let ip = ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip4);
        let port = ptr::read_volatile(&raw const (*ctx.sock_addr).user_port);
        let protocol = ptr::read_volatile(&raw const (*ctx.sock_addr).protocol);
        Destination {
            addr: Addr::from_v4_be(ip),
            port: u16::from_be(port as u16),
            proto: protocol as u8,
        }
    }
}

/// Where an IPv6 call is going.
#[inline(always)]
pub fn destination6(ctx: &SockAddrContext) -> Destination {
    // SAFETY: context fields that the IPv6 hooks may read.
    unsafe {
        let ip = &raw const (*ctx.sock_addr).user_ip6;
        let words = [
            ptr::read_volatile(&raw const (*ip)[0]),
            ptr::read_volatile(&raw const (*ip)[1]),
            ptr::read_volatile(&raw const (*ip)[2]),
            ptr::read_volatile(&raw const (*ip)[3]),
        ];
        let port = ptr::read_volatile(&raw const (*ctx.sock_addr).user_port);
        let protocol = ptr::read_volatile(&raw const (*ctx.sock_addr).protocol);
        Destination {
            addr: Addr::from_v6_be(words),
            port: u16::from_be(port as u16),
            proto: protocol as u8,
        }
    }
}
