//! The egress backstop: every packet of a workload's socket, whatever call sent it.
//!
//! TCP is judged by the destination stored on the socket, never by headers: NAT in the OUTPUT
//! chain has rewritten them by now. Datagrams are judged by header, with the last destination
//! that passed as a short cut.

use crate::bpf::datagram::answers;
use crate::bpf::event;
use crate::bpf::judge::{Applied, judge, policy, policy_of, remember, state};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock};
use aya_ebpf::programs::SkBuffContext;
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::abi::{SocketState, action, policy_flag, proto, socket_flag};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::packet::{Packet, destination};
use egress_ebpf::verdict::{Hook, Reason, Verdict};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
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
    let tcp = kind == SOCK_STREAM && protocol == proto::TCP as u32;
    if tcp && (tcp_state == LISTEN || tcp_state == NEW_SYN_RECV) {
        return Verdict::Allow.return_code();
    }
    let known = state(sk);
    match known {
        Some(state) if tcp && stored(state) => stream(state),
        known => {
            let udp = kind == SOCK_DGRAM && protocol == proto::UDP as u32;
            if tcp || udp {
                by_header(ctx, known)
            } else {
                other(known, protocol)
            }
        }
    }
}

const UNKNOWN: Destination = Destination {
    addr: Addr::UNSPECIFIED,
    port: 0,
    proto: 0,
};

/// Whether the state alone says what a stream is.
#[inline(always)]
fn stored(state: &SocketState) -> bool {
    state.action != 0 || state.flags & socket_flag::INBOUND != 0
}

#[inline(always)]
fn stream(state: &mut SocketState) -> i32 {
    if state.flags & socket_flag::INBOUND != 0 {
        return Verdict::Allow.return_code();
    }
    if state.action == action::PROXY && state.flags & socket_flag::PUBLISHED == 0 {
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

/// Neither a TCP nor a UDP socket: raw, ping, SCTP and whatever else speaks IP.
#[inline(always)]
fn other(known: Option<&mut SocketState>, protocol: u32) -> i32 {
    let empty = SocketState::default();
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
fn by_header(ctx: &SkBuffContext, known: Option<&mut SocketState>) -> i32 {
    let to = match destination(&Skb(ctx)) {
        Ok(to) => to,
        Err(reason) => return refuse(known.as_deref(), None, &UNKNOWN, reason),
    };
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
