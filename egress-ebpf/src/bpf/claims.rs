//! Denies calls with which a socket claims a source address. `sender` knows whether the kernel checks a source
//! itself.

use crate::bpf::context::sock_of;
use crate::bpf::event;
use crate::bpf::judge::policy_of;
use crate::bpf::sender::{self, bound4, bound6, may_claim};
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::programs::SockAddrContext;
use core::ptr;
use egress_ebpf::abi::{policy_flag, socket_flag};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// Whether this datagram names another source than its socket is bound to (`IPV6_PKTINFO`).
#[inline(always)]
pub fn names_a_source(ctx: &SockAddrContext) -> bool {
    let sk = sock_of(ctx).cast::<bpf_sock>();
    // SAFETY: context fields that sendmsg6 may read, and fields of a full socket.
    let (from, own) = unsafe {
        let from = &raw const (*ctx.sock_addr).msg_src_ip6;
        let own = &raw const (*sk).src_ip6;
        (
            [
                ptr::read_volatile(&raw const (*from)[0]),
                ptr::read_volatile(&raw const (*from)[1]),
                ptr::read_volatile(&raw const (*from)[2]),
                ptr::read_volatile(&raw const (*from)[3]),
            ],
            [
                ptr::read_volatile(&raw const (*own)[0]),
                ptr::read_volatile(&raw const (*own)[1]),
                ptr::read_volatile(&raw const (*own)[2]),
                ptr::read_volatile(&raw const (*own)[3]),
            ],
        )
    };
    from != own && !Addr::from_v6_be(from).is_loopback()
}

/// Whether a socket that is older than the gate claims a source. The egress hook is too late for that: a
/// datagram to an IPv4 group reaches this node's sockets before (`ip_mc_output` first sends a copy without a
/// socket).
#[inline(always)]
pub fn older_claims(ctx: &SockAddrContext, sock: Sock<'_>, to: &Destination) -> bool {
    !sock.mode().has(socket_flag::OWNED)
        && sender::older_claims(sock_of(ctx).cast(), !to.addr.is_v4())
}

/// Denies a call that claims a source address that the kernel does not check.
#[inline(always)]
pub fn deny_claim(ctx: &SockAddrContext, to: &Destination, claims: bool, hook: Hook) -> i32 {
    if !claims {
        return Verdict::Allow.return_code();
    }
    let sock = Sock::find_or_make(sock_of(ctx));
    let applied = sock.map(policy_of);
    if applied.is_some_and(|a| a.policy.flags & policy_flag::ALLOW_ANY != 0) {
        return Verdict::Allow.return_code();
    }
    if let Some(sock) = sock {
        sock.netns_or_ask(ctx.as_ptr());
        sock.note_task();
    }
    event::deny(sock, applied.as_ref(), to, Reason::ForgedSource, hook).return_code()
}

/// Whether a stream would claim its source, to which the answer to its handshake would go.
#[inline(always)]
pub fn stream_claims(ctx: &SockAddrContext, to: &Destination) -> bool {
    let sk = sock_of(ctx).cast();
    // Both are read before any branch, see `context`.
    let (v4, v6) = (bound4(sk), bound6(sk));
    let from = if to.addr.is_v4() { v4 } else { v6 };
    !from.is_unspecified() && !from.is_loopback() && may_claim(sk, !to.addr.is_v4())
}
