//! The egress backstop: every packet of a workload's socket, whatever call sent it.
//!
//! TCP is judged by the destination stored on the socket, never by headers: NAT in the OUTPUT
//! chain has rewritten them by now. Datagrams are judged by header, with the last destination
//! that passed as a short cut.
//!
//! Of a stream's header only that is checked which no NAT changes and which could send it
//! elsewhere: that it is plain TCP, and that what was let through as loopback stays there.

use crate::bpf::datagram::answers;
use crate::bpf::event;
use crate::bpf::judge::{Applied, judge, policy, policy_of, remember, state};
use crate::bpf::listener::LOOPBACK;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock};
use aya_ebpf::programs::SkBuffContext;
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::abi::{SocketState, action, policy_flag, proto, socket_flag};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::packet::{Packet, destination, is_neighbour_talk, is_plain_tcp, source_is_local};
use egress_ebpf::verdict::{Hook, Reason, Verdict};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
/// `TCP_SYN_SENT`.
const SYN_SENT: u32 = 2;
/// `TCP_LISTEN` and `TCP_NEW_SYN_RECV`: what leaves is the answer to a handshake.
const LISTEN: u32 = 10;
const NEW_SYN_RECV: u32 = 12;

struct Skb<'a>(&'a SkBuffContext);

impl Packet for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load(offset as usize).ok()
    }
}

/// Runs for each packet of a socket below an enforced root.
#[inline(always)]
pub fn egress(ctx: &SkBuffContext) -> i32 {
    // SAFETY: the socket pointer of the context, checked for null before use.
    let (sk, kind, protocol, tcp_state) = unsafe {
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return refuse(None, None, &UNKNOWN, Reason::State);
        }
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return refuse(None, None, &UNKNOWN, Reason::State);
        }
        (
            sk.cast::<c_void>(),
            ptr::read_volatile(&raw const (*sk).type_),
            ptr::read_volatile(&raw const (*sk).protocol),
            ptr::read_volatile(&raw const (*sk).state),
        )
    };
    // SAFETY: a context field that cgroup_skb may read.
    let device = unsafe { ptr::read_volatile(&raw const (*ctx.skb.skb).ifindex) };
    let known = state(sk);
    if kind == SOCK_STREAM && protocol == u32::from(proto::TCP) {
        if !is_plain_tcp(&Skb(ctx)) {
            return refuse_known(known, Reason::Unparsable);
        }
        return match tcp_state {
            LISTEN | NEW_SYN_RECV => Verdict::Allow.return_code(),
            _ => stream(ctx, known, tcp_state == SYN_SENT, device),
        };
    }
    if kind == SOCK_DGRAM && protocol == u32::from(proto::UDP) {
        return by_header(ctx, known, device);
    }
    other(ctx, known, protocol, device)
}

const UNKNOWN: Destination = Destination {
    addr: Addr::UNSPECIFIED,
    port: 0,
    proto: 0,
};

/// A connection, or its first packet (`opening`).
#[inline(always)]
fn stream(ctx: &SkBuffContext, known: Option<&mut SocketState>, opening: bool, device: u32) -> i32 {
    let Some(state) = known else {
        return by_header(ctx, None, device);
    };
    if state.flags & socket_flag::INBOUND != 0 {
        return Verdict::Allow.return_code();
    }
    let redirected = state.action == action::PROXY;
    if opening && device == LOOPBACK && !redirected && !source_is_local(&Skb(ctx)) {
        return refuse_known(Some(state), Reason::ForgedSource);
    }
    // A device that the socket is bound to, or an unspecified address that became the bound one,
    // takes what was let through as loopback to the outside.
    let strayed = device != LOOPBACK && (redirected || state.dialled.is_loopback());
    if state.action == 0 || strayed {
        return by_header(ctx, Some(state), device);
    }
    if redirected && state.flags & socket_flag::PUBLISHED == 0 {
        return refuse(
            Some(state),
            Some(&policy(state.policy)),
            &destination_of(state),
            Reason::FlowTableFull,
        );
    }
    let applied = policy_of(state);
    if applied.policy.generation == state.generation && applied.id == state.policy {
        return Verdict::Allow.return_code();
    }
    let to = destination_of(state);
    rejudge(state, &applied, &to)
}

/// Neither a TCP nor a UDP socket: raw, ping, SCTP and whatever else speaks IP. In a network
/// namespace that a workload made, the kernel's own sockets too: `sock_create` does not run for
/// those, which tells them apart, and they may find neighbours and answer on loopback.
#[inline(always)]
fn other(ctx: &SkBuffContext, known: Option<&mut SocketState>, protocol: u32, device: u32) -> i32 {
    let empty = SocketState::default();
    let owned = known
        .as_deref()
        .is_some_and(|s| s.flags & socket_flag::OWNED != 0);
    if !owned {
        let home = device == LOOPBACK && source_is_local(&Skb(ctx));
        let link = protocol == u32::from(proto::ICMPV6) && is_neighbour_talk(&Skb(ctx));
        if home || link {
            return Verdict::Allow.return_code();
        }
    }
    let applied = policy_of(known.as_deref().unwrap_or(&empty));
    if applied.policy.flags & policy_flag::ALLOW_ANY != 0 {
        return Verdict::Allow.return_code();
    }
    let to = Destination {
        proto: protocol as u8,
        ..UNKNOWN
    };
    refuse(known.as_deref(), Some(&applied), &to, Reason::Protocol)
}

#[inline(always)]
fn destination_of(state: &SocketState) -> Destination {
    Destination {
        addr: state.dialled,
        port: state.port,
        proto: state.proto,
    }
}

/// A flow that began under another generation goes on only if the present one lists it. Where it
/// runs (straight or through the proxy) was settled at its connect and stays.
#[inline(always)]
fn rejudge(state: &mut SocketState, applied: &Applied, to: &Destination) -> i32 {
    match judge(applied, state.netns, to) {
        Verdict::Deny(reason) => refuse(Some(state), Some(applied), to, reason),
        verdict => {
            state.policy = applied.id;
            state.generation = applied.policy.generation;
            verdict.return_code()
        }
    }
}

/// Datagrams, and streams whose connect no hook saw.
#[inline(always)]
fn by_header(ctx: &SkBuffContext, known: Option<&mut SocketState>, device: u32) -> i32 {
    let to = match destination(&Skb(ctx)) {
        Ok(to) => to,
        Err(reason) => return refuse_known(known, reason),
    };
    if device == LOOPBACK {
        if !source_is_local(&Skb(ctx)) {
            return refuse_known(known, Reason::ForgedSource);
        }
    } else if to.addr.is_loopback() {
        return refuse_known(known, Reason::NotListed);
    }
    let Some(state) = known else {
        let empty = SocketState::default();
        let applied = policy_of(&empty);
        return match judge(&applied, 0, &to) {
            Verdict::Allow => Verdict::Allow.return_code(),
            // Without a state there was no redirect, so this packet is on its way past the proxy.
            Verdict::Proxy => refuse(None, Some(&applied), &to, Reason::State),
            Verdict::Deny(reason) => refuse(None, Some(&applied), &to, reason),
        };
    };
    let applied = policy_of(state);
    if state.action == action::ALLOW
        && state.generation == applied.policy.generation
        && state.port == to.port
        && state.proto == to.proto
        && state.dst == to.addr.canonical()
    {
        return Verdict::Allow.return_code();
    }
    match judge(&applied, state.netns, &to) {
        Verdict::Allow => {
            remember(state, &applied, &to, Verdict::Allow);
            Verdict::Allow.return_code()
        }
        Verdict::Proxy => refuse(Some(state), Some(&applied), &to, Reason::NoProxy),
        // The state above may hold what another thread has sent in between.
        // SAFETY: takes no pointer but the context.
        Verdict::Deny(_) if answers(unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }, &to) => {
            Verdict::Allow.return_code()
        }
        Verdict::Deny(reason) => refuse(Some(state), Some(&applied), &to, reason),
    }
}

#[inline(always)]
fn refuse(
    state: Option<&SocketState>,
    applied: Option<&Applied>,
    to: &Destination,
    reason: Reason,
) -> i32 {
    event::refuse(state, applied, to, reason, Hook::Egress).return_code()
}

/// A refusal whose destination is the one that the socket stored, if any, whatever the packet says.
#[inline(always)]
fn refuse_known(state: Option<&mut SocketState>, reason: Reason) -> i32 {
    let empty = SocketState::default();
    let known = state.as_deref();
    let applied = policy_of(known.unwrap_or(&empty));
    let to = known.map_or(UNKNOWN, destination_of);
    refuse(known, Some(&applied), &to, reason)
}
