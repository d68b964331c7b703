//! The egress backstop: every packet of a workload's socket, whatever call sent it.
//!
//! TCP is judged by the destination stored on the socket, never by headers: NAT in the OUTPUT
//! chain has rewritten them by now. Datagrams are judged by header, with the last destination
//! that passed as a short cut.
//!
//! Of a stream's header only that is checked which no NAT changes and which could send it
//! elsewhere: that it is plain TCP, and that what was let through as loopback stays there.

use crate::bpf::connect::redirected;
use crate::bpf::datagram::answers;
use crate::bpf::event;
use crate::bpf::judge::{Applied, is_current, is_fresh, judge, policy, policy_of, remember, state};
use crate::bpf::listener::LOOPBACK;
use crate::bpf::origin;
use crate::bpf::server::{is_accepted, note_listener};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock};
use aya_ebpf::programs::SkBuffContext;
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::abi::{DEFAULT_POLICY, SocketState, action, policy_flag, proto, socket_flag};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::packet::{
    Packet, Plain, destination, is_neighbour_talk, is_plain_tcp, source_is_local,
};
use egress_ebpf::verdict::{Hook, Reason, Verdict};

const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
/// `TCP_SYN_SENT`.
pub const SYN_SENT: u32 = 2;
/// `TCP_LISTEN` and `TCP_NEW_SYN_RECV`: what leaves is the answer to a handshake.
const LISTEN: u32 = 10;
const NEW_SYN_RECV: u32 = 12;

struct Skb<'a>(&'a SkBuffContext);

impl Skb<'_> {
    /// What the packet says where it is IPv4 and its header is plain and at hand, by direct access:
    /// each read by a helper costs more than all of this.
    #[inline(always)]
    fn plain4(&self) -> Option<Plain> {
        self.words().and_then(Plain::v4)
    }

    /// The same for IPv6.
    #[inline(always)]
    fn plain6(&self) -> Option<Plain> {
        self.words().and_then(Plain::v6)
    }

    /// The first words of the packet, if they are at hand.
    #[inline(always)]
    fn words<const N: usize>(&self) -> Option<&[u32; N]> {
        // SAFETY: context fields that cgroup_skb may read. The verifier holds each read to the
        // bounds just checked; headers are aligned to four bytes where the kernel builds them
        // (`LL_RESERVED_SPACE`), and BPF does not ask for more.
        unsafe {
            let start = ptr::read_volatile(&raw const (*self.0.skb.skb).data) as usize;
            let end = ptr::read_volatile(&raw const (*self.0.skb.skb).data_end) as usize;
            if start + size_of::<[u32; N]>() > end {
                return None;
            }
            Some(&*(start as *const [u32; N]))
        }
    }
}

impl Packet for Skb<'_> {
    #[inline(always)]
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load(offset as usize).ok()
    }
}

/// What is to become of a packet.
enum Judged {
    Passes,
    Refused(Destination, Reason),
}

/// A packet, its socket and way out, read once.
struct Sent {
    kind: u32,
    protocol: u32,
    tcp_state: u32,
    device: u32,
}

impl Sent {
    #[inline(always)]
    fn is_tcp(&self) -> bool {
        self.kind == SOCK_STREAM && self.protocol == proto::TCP as u32
    }

    #[inline(always)]
    fn is_udp(&self) -> bool {
        self.kind == SOCK_DGRAM && self.protocol == proto::UDP as u32
    }
}

/// Runs for each packet of a socket below an enforced root.
#[inline(always)]
pub fn egress(ctx: &SkBuffContext) -> i32 {
    // SAFETY: context fields that cgroup_skb may read; the socket is checked for null before use.
    let (sk, device, tcp_state) = unsafe {
        let device = ptr::read_volatile(&raw const (*ctx.skb.skb).ifindex);
        let sk = (*ctx.skb.skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return Verdict::Deny(Reason::State).return_code();
        }
        (sk, device, ptr::read_volatile(&raw const (*sk).state))
    };
    if let Some(state) = state(sk.cast()) {
        if is_settled(&Skb(ctx), state, device, tcp_state) {
            return Verdict::Allow.return_code();
        }
    }
    // SAFETY: as above.
    let (sk, sent) = unsafe {
        let sk = bpf_sk_fullsock(sk);
        if sk.is_null() {
            return Verdict::Deny(Reason::State).return_code();
        }
        let sent = Sent {
            kind: ptr::read_volatile(&raw const (*sk).type_),
            protocol: ptr::read_volatile(&raw const (*sk).protocol),
            tcp_state,
            device,
        };
        (sk.cast::<c_void>(), sent)
    };
    let known = state(sk);
    let applied = match known.as_deref() {
        Some(state) => policy_of(state),
        None => policy(DEFAULT_POLICY),
    };
    // One place that judges and one that refuses: each is large once inlined, and the verifier
    // walks every copy.
    match judged(ctx, sk, &sent, known, &applied) {
        Judged::Passes => Verdict::Allow.return_code(),
        Judged::Refused(to, reason) => {
            let known = state(sk);
            event::refuse(known.as_deref(), Some(&applied), &to, reason, Hook::Egress).return_code()
        }
    }
}

/// Whether a packet belongs to a flow that was let through and still is: nearly every packet does,
/// and this tells at the price of one look-up. All others are for [`judged`].
#[inline(always)]
fn is_settled(skb: &Skb<'_>, state: &SocketState, device: u32, tcp_state: u32) -> bool {
    let accepted = is_accepted(state, tcp_state);
    if !accepted && (state.action == 0 || !is_fresh(state)) {
        return false;
    }
    // A call for each family: in one form for both, the compiler would keep all of it on the stack.
    if let Some(plain) = skb.plain4() {
        return belongs(&plain, state, accepted, device, tcp_state);
    }
    skb.plain6()
        .is_some_and(|plain| belongs(&plain, state, accepted, device, tcp_state))
}

/// Whether a packet is of the flow that its socket's state was let through for.
#[inline(always)]
fn belongs(
    plain: &Plain,
    state: &SocketState,
    accepted: bool,
    device: u32,
    tcp_state: u32,
) -> bool {
    if plain.to.proto != state.proto {
        return false;
    }
    if accepted {
        return true;
    }
    if state.proto == proto::TCP {
        // Of a stream only the first packet is looked at: its addresses stay.
        return (tcp_state != SYN_SENT || device != LOOPBACK || plain.source_is_local())
            && !has_strayed(state, device)
            && (!redirected(state) || state.flags & socket_flag::PUBLISHED != 0);
    }
    let from_here = if device == LOOPBACK {
        plain.source_is_local()
    } else {
        !state.dst.is_loopback()
    };
    from_here
        && state.proto == proto::UDP
        && state.action == action::ALLOW
        && state.port == plain.to.port
        && state.dst == plain.to.addr
}

/// A device that the socket is bound to, or an unspecified address that became the bound one,
/// takes what was let through as loopback to the outside.
#[inline(always)]
fn has_strayed(state: &SocketState, device: u32) -> bool {
    device != LOOPBACK && (redirected(state) || state.dialled.is_loopback())
}

const UNKNOWN: Destination = Destination {
    addr: Addr::UNSPECIFIED,
    port: 0,
    proto: 0,
};

#[inline(always)]
fn judged(
    ctx: &SkBuffContext,
    sk: *mut c_void,
    sent: &Sent,
    mut known: Option<&mut SocketState>,
    applied: &Applied,
) -> Judged {
    // Of a stream only the first packet: its addresses stay.
    let first = !sent.is_tcp() || sent.tcp_state == SYN_SENT;
    let forged = sent.device == LOOPBACK && first && !source_is_local(&Skb(ctx));
    if sent.is_tcp() {
        if !is_plain_tcp(&Skb(ctx)) {
            let to = known.as_deref().map_or(UNKNOWN, destination_of);
            return Judged::Refused(to, Reason::Unparsable);
        }
        if matches!(sent.tcp_state, LISTEN | NEW_SYN_RECV) {
            note_listener(sk);
            return Judged::Passes;
        }
        if let Some(state) = known.as_deref_mut() {
            if let Some(judged) = stream(ctx, sent, state, applied, forged) {
                return judged;
            }
        }
    } else if !sent.is_udp() {
        return other(ctx, sent, known.as_deref(), applied, forged);
    }
    by_header(ctx, sent, known, applied, forged)
}

/// A connection by what its socket stored; `None` where that does not say.
#[inline(always)]
fn stream(
    ctx: &SkBuffContext,
    sent: &Sent,
    state: &mut SocketState,
    applied: &Applied,
    forged: bool,
) -> Option<Judged> {
    if is_accepted(state, sent.tcp_state) {
        return Some(Judged::Passes);
    }
    if state.action == 0 || has_strayed(state, sent.device) {
        return None;
    }
    let redirected = redirected(state);
    // The proxy's answer to a forged sender is stopped by `listener::answers_stay`; but Linux 6.1
    // runs no egress hook for a handshake's answer over IPv6, so there its question is.
    if forged && !(redirected && state.dialled.is_v4()) {
        return Some(Judged::Refused(destination_of(state), Reason::ForgedSource));
    }
    if redirected && state.flags & socket_flag::PUBLISHED == 0 && !publish(ctx, sent, state) {
        return Some(Judged::Refused(
            destination_of(state),
            Reason::FlowTableFull,
        ));
    }
    if is_current(state, applied) {
        return Some(Judged::Passes);
    }
    Some(rejudge(state, applied))
}

/// Publishes a redirected flow by its first packet.
#[inline(always)]
fn publish(ctx: &SkBuffContext, sent: &Sent, state: &mut SocketState) -> bool {
    sent.tcp_state == SYN_SENT
        && Skb(ctx)
            .plain4()
            .or_else(|| Skb(ctx).plain6())
            .is_some_and(|plain| origin::publish(ctx, state, plain.from, plain.from_port))
}

/// A flow that began under another generation goes on only if the present one lists it. Where it
/// runs (straight or through the proxy) was settled at its connect and stays.
#[inline(always)]
fn rejudge(state: &mut SocketState, applied: &Applied) -> Judged {
    let to = destination_of(state);
    match judge(applied, state.netns, &to) {
        Verdict::Deny(reason) => Judged::Refused(to, reason),
        Verdict::Allow | Verdict::Proxy => {
            state.policy = applied.id;
            state.generation = applied.policy.generation;
            Judged::Passes
        }
    }
}

#[inline(always)]
fn destination_of(state: &SocketState) -> Destination {
    Destination {
        addr: state.dialled,
        port: state.port,
        proto: state.proto,
    }
}

/// Neither a TCP nor a UDP socket: raw, ping, SCTP and whatever else speaks IP. In a network
/// namespace that a workload made, the kernel's own sockets too: `sock_create` does not run for
/// those, which tells them apart, and they may find neighbours and answer on loopback.
#[inline(always)]
fn other(
    ctx: &SkBuffContext,
    sent: &Sent,
    known: Option<&SocketState>,
    applied: &Applied,
    forged: bool,
) -> Judged {
    let owned = known.is_some_and(|s| s.flags & socket_flag::OWNED != 0);
    if !owned {
        let home = sent.device == LOOPBACK && !forged;
        let link = sent.protocol == proto::ICMPV6 as u32 && is_neighbour_talk(&Skb(ctx));
        if home || link {
            return Judged::Passes;
        }
    }
    if applied.policy.flags & policy_flag::ALLOW_ANY != 0 {
        return Judged::Passes;
    }
    let to = Destination {
        proto: sent.protocol as u8,
        ..UNKNOWN
    };
    Judged::Refused(to, Reason::Protocol)
}

/// Datagrams, and streams whose connect no hook saw.
#[inline(always)]
fn by_header(
    ctx: &SkBuffContext,
    sent: &Sent,
    known: Option<&mut SocketState>,
    applied: &Applied,
    forged: bool,
) -> Judged {
    let to = match destination(&Skb(ctx)) {
        Ok(to) => to,
        Err(reason) => return Judged::Refused(UNKNOWN, reason),
    };
    if forged {
        return Judged::Refused(to, Reason::ForgedSource);
    }
    if sent.device != LOOPBACK && to.addr.is_loopback() {
        return Judged::Refused(to, Reason::NotListed);
    }
    if let Some(state) = known.as_deref() {
        if state.action == action::ALLOW
            && is_current(state, applied)
            && state.port == to.port
            && state.proto == to.proto
            && state.dst == to.addr.canonical()
        {
            return Judged::Passes;
        }
    }
    let netns = known.as_deref().map_or(0, |s| s.netns);
    match judge(applied, netns, &to) {
        Verdict::Allow => {
            if let Some(state) = known {
                remember(state, applied, &to, Verdict::Allow);
            }
            Judged::Passes
        }
        // There was no redirect, so this packet is on its way past the proxy.
        Verdict::Proxy => Judged::Refused(to, Reason::NoProxy),
        // The state above may hold what another thread has sent in between.
        // SAFETY: takes no pointer but the context.
        Verdict::Deny(Reason::NotListed)
            if answers(unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }, &to) =>
        {
            Judged::Passes
        }
        Verdict::Deny(reason) => Judged::Refused(to, reason),
    }
}

/// The network namespace of packets that a test hands to [`probe`].
const PROBE_NETNS: u64 = 1;

/// The verdict on a packet alone, under the default policy, as [`Verdict::number`].
#[inline(always)]
pub fn probe(ctx: &SkBuffContext) -> i64 {
    let verdict = match destination(&Skb(ctx)) {
        Ok(to) => judge(&policy(DEFAULT_POLICY), PROBE_NETNS, &to),
        Err(reason) => Verdict::Deny(reason),
    };
    i64::from(verdict.number())
}
