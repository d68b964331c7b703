//! The egress backstop: every packet of a workload's socket, whatever call sent it.
//!
//! TCP is judged by the destination stored on the socket, never by headers: NAT in the OUTPUT
//! chain has rewritten them by now. Datagrams are judged by header, with the last destination
//! that passed as a short cut.
//!
//! Of a stream's header it checks only the parts that NAT does not change and that could send the
//! packet elsewhere: it is plain TCP, and a flow that was allowed as loopback stays on loopback.

use crate::bpf::answers::answers;
use crate::bpf::context::{LISTEN, LOOPBACK, NEW_SYN_RECV, SOCK_DGRAM, SOCK_STREAM, SYN_SENT};
use crate::bpf::event;
use crate::bpf::fast::{has_strayed, is_settled};
use crate::bpf::judge::{
    Applied, is_current, judge, judge_for, policy, policy_of, remember, renew,
};
use crate::bpf::origin;
use crate::bpf::owner;
use crate::bpf::sender;
use crate::bpf::server::{is_accepted, note_listener};
use crate::bpf::skb::Skb;
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_cgroup_id};
use aya_ebpf::programs::SkBuffContext;
use core::ptr;
use egress_ebpf::abi::{policy_flag, proto, socket_flag};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::ids::{CgroupId, NetnsCookie};
use egress_ebpf::packet::{destination, is_neighbour_talk, is_plain_tcp, source_is_local};
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// What to do with a packet.
enum Judged {
    Passes,
    Denied(Destination, Reason),
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
    if let Some(sock) = Sock::find(sk.cast()) {
        if is_settled(&Skb(ctx), sk, sock, device, tcp_state) {
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
        (sk, sent)
    };
    let known = if sent.is_tcp() || sent.is_udp() {
        Sock::find_or_make(sk.cast())
    } else {
        Sock::find(sk.cast())
    };
    let applied = applied(ctx, known);
    // One place that judges and one that denies: each is large once inlined, and the verifier
    // walks every copy.
    match judged(ctx, sk, &sent, known, &applied) {
        Judged::Passes => Verdict::Allow.return_code(),
        Judged::Denied(to, reason) => {
            event::deny(known, Some(&applied), &to, reason, Hook::Egress).return_code()
        }
    }
}

/// The policy of a packet's socket. Where the socket is older than the gate, or its cgroup's
/// ancestors were evicted, the kernel gives the owner of the packet.
#[inline(always)]
fn applied(ctx: &SkBuffContext, known: Option<Sock<'_>>) -> Applied {
    if let Some(sock) = known {
        if sock.cgroup() == CgroupId(0) {
            // SAFETY: takes no pointer but the context.
            sock.set_cgroup(CgroupId(unsafe { bpf_skb_cgroup_id(ctx.skb.skb) }));
            // What was allowed before was allowed under the root's default.
            sock.set_judged(0);
        }
        let applied = policy_of(sock);
        if !applied.is_unknown() {
            return applied;
        }
    }
    match owner::policy_id_of_packet(ctx) {
        Ok(id) => policy(id),
        Err(reason) => Applied::none(reason),
    }
}

const UNKNOWN: Destination = Destination {
    addr: Addr::UNSPECIFIED,
    port: 0,
    proto: 0,
};

#[inline(always)]
fn judged(
    ctx: &SkBuffContext,
    sk: *mut bpf_sock,
    sent: &Sent,
    known: Option<Sock<'_>>,
    applied: &Applied,
) -> Judged {
    // Of a stream only the first packet: its addresses stay.
    let first = !sent.is_tcp() || sent.tcp_state == SYN_SENT;
    let forged = sent.device == LOOPBACK && first && !source_is_local(&Skb(ctx));
    if sent.is_tcp() {
        if !is_plain_tcp(&Skb(ctx)) {
            let to = known.map_or(UNKNOWN, Sock::destination);
            return Judged::Denied(to, Reason::Unparsable);
        }
        if matches!(sent.tcp_state, LISTEN | NEW_SYN_RECV) {
            // SAFETY: a full socket of the running program's.
            unsafe { note_listener(sk) };
            return Judged::Passes;
        }
        if let Some(sock) = known {
            if let Some(judged) = stream(ctx, sent, sock, applied, forged) {
                return judged;
            }
        }
    } else if !sent.is_udp() {
        return other(ctx, sent, known, applied, forged);
    }
    by_header(ctx, sk, sent, known, applied, forged)
}

/// A connection by what its socket stored; `None` where that does not say.
#[inline(always)]
fn stream(
    ctx: &SkBuffContext,
    sent: &Sent,
    sock: Sock<'_>,
    applied: &Applied,
    forged: bool,
) -> Option<Judged> {
    let mode = sock.mode();
    if is_accepted(sock, mode, sent.tcp_state) {
        return Some(Judged::Passes);
    }
    if mode.action() == 0 || has_strayed(sock, mode, sent.device) {
        return None;
    }
    // The proxy's answer to a forged sender is stopped by `listener::answers_stay`; but Linux 6.1
    // runs no egress hook for a handshake's answer over IPv6, so there its question is.
    if forged && !(mode.is_redirected() && sock.dialled().is_v4()) {
        return Some(Judged::Denied(sock.destination(), Reason::ForgedSource));
    }
    let unpublished = mode.is_redirected() && !mode.has(socket_flag::PUBLISHED);
    if unpublished && !publish(ctx, sent, sock) {
        return Some(Judged::Denied(sock.destination(), Reason::FlowTableFull));
    }
    if is_current(sock, applied) {
        return Some(Judged::Passes);
    }
    Some(rejudge(sock, applied, sent.tcp_state))
}

/// Publishes a redirected flow by its first packet.
#[inline(always)]
fn publish(ctx: &SkBuffContext, sent: &Sent, sock: Sock<'_>) -> bool {
    sent.tcp_state == SYN_SENT
        && Skb(ctx)
            .plain4()
            .or_else(|| Skb(ctx).plain6())
            .is_some_and(|plain| origin::publish(ctx, sock, plain.from, plain.from_port))
}

/// A flow that began under another policy or generation goes on only if the present one lists it.
/// Where it runs (straight or through the proxy) was settled at its connect and stays; before its first
/// packet it does not run yet, and must not go past the proxy.
#[inline(always)]
fn rejudge(sock: Sock<'_>, applied: &Applied, tcp_state: u32) -> Judged {
    let to = sock.destination();
    match judge(applied, sock.netns(), &to) {
        Verdict::Deny(reason) => Judged::Denied(to, reason),
        Verdict::Proxy if tcp_state == SYN_SENT && !sock.mode().is_redirected() => {
            Judged::Denied(to, Reason::NoProxy)
        }
        Verdict::Allow | Verdict::Proxy => {
            renew(sock, applied);
            Judged::Passes
        }
    }
}

/// Neither a TCP nor a UDP socket: raw, ping, SCTP and whatever else speaks IP. In a network
/// namespace that a workload made, the kernel's own sockets too: `sock_create` does not run for
/// those, which tells them apart, and they may find neighbours and answer on loopback.
#[inline(always)]
fn other(
    ctx: &SkBuffContext,
    sent: &Sent,
    known: Option<Sock<'_>>,
    applied: &Applied,
    forged: bool,
) -> Judged {
    let owned = known.is_some_and(|sock| sock.mode().has(socket_flag::OWNED));
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
    Judged::Denied(to, Reason::Protocol)
}

/// Datagrams, and streams whose connect no hook saw.
#[inline(always)]
fn by_header(
    ctx: &SkBuffContext,
    sk: *mut bpf_sock,
    sent: &Sent,
    known: Option<Sock<'_>>,
    applied: &Applied,
    forged: bool,
) -> Judged {
    let to = match destination(&Skb(ctx)) {
        Ok(to) => to,
        Err(reason) => return Judged::Denied(UNKNOWN, reason),
    };
    let another = sent.is_udp()
        && sent.device == LOOPBACK
        && !Skb(ctx)
            .plain4()
            .or_else(|| Skb(ctx).plain6())
            .is_some_and(|plain| sender::is_own(sk, &plain.from));
    if forged || another {
        return Judged::Denied(to, Reason::ForgedSource);
    }
    if sent.device != LOOPBACK && to.addr.is_loopback() {
        return Judged::Denied(to, Reason::NotListed);
    }
    let netns = known.map_or(NetnsCookie(0), Sock::netns);
    let mut shortest = 0;
    if sent.is_udp() && sent.device != LOOPBACK {
        let owned = known.is_some_and(|sock| sock.mode().has(socket_flag::OWNED));
        match sender::shortest_network(ctx, sk, owned, &to) {
            Ok(length) => shortest = length,
            Err(reason) => return Judged::Denied(to, reason),
        }
    }
    match judge_for(applied, netns, &to, shortest) {
        Verdict::Allow => {
            if let Some(sock) = known {
                remember(sock, applied, &to, Verdict::Allow);
            }
            Judged::Passes
        }
        // There was no redirect, so this packet is on its way past the proxy.
        Verdict::Proxy => Judged::Denied(to, Reason::NoProxy),
        // The state above may hold what another thread has sent in between.
        // SAFETY: takes no pointer but the context.
        Verdict::Deny(Reason::NotListed)
            if answers(unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }, &to) =>
        {
            Judged::Passes
        }
        Verdict::Deny(reason) => Judged::Denied(to, reason),
    }
}
