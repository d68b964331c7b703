//! The egress backstop: every packet of a workload's socket, whatever call sent it.
//!
//! TCP is judged by the destination that is stored on the socket, not by headers, because NAT in the OUTPUT
//! chain has already rewritten them. Datagrams are judged by their header. The last allowed destination makes
//! that cheap.
//!
//! Of a stream's header, it checks only what NAT does not change and what could send the packet to another
//! address: the packet is plain TCP, and a flow that was allowed as loopback stays on loopback.

use crate::bpf::answers::answers;
use crate::bpf::context::{LISTEN, LOOPBACK, NEW_SYN_RECV, SOCK_DGRAM, SOCK_STREAM, SYN_SENT};
use crate::bpf::dns;
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

/// A packet's socket and device, read once.
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
    // There is one call that judges and one that denies, because each is large when inlined and the verifier
    // checks every copy.
    match judged(ctx, sk, &sent, known, &applied) {
        Judged::Passes => Verdict::Allow.return_code(),
        Judged::Denied(to, reason) => {
            event::deny(known, Some(&applied), &to, reason, Hook::Egress).return_code()
        }
    }
}

/// The policy of a packet's socket. If the socket is older than the gate, or its cgroup's ancestors were evicted,
/// the kernel returns the owner of the packet.
#[inline(always)]
fn applied(ctx: &SkBuffContext, known: Option<Sock<'_>>) -> Applied {
    if let Some(sock) = known {
        if sock.cgroup() == CgroupId(0) {
            // SAFETY: takes no pointer but the context.
            sock.set_cgroup(CgroupId(unsafe { bpf_skb_cgroup_id(ctx.skb.skb) }));
            // Earlier verdicts were based on the root's default policy.
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
    // Only the first packet of a stream is checked, because its addresses do not change.
    let first = !sent.is_tcp() || sent.tcp_state == SYN_SENT;
    let forged = sent.device == LOOPBACK && first && !source_is_local(&Skb(ctx));
    if sent.is_tcp() {
        if !is_plain_tcp(&Skb(ctx)) {
            let to = known.map_or(UNKNOWN, Sock::destination);
            return Judged::Denied(to, Reason::Unparsable);
        }
        if matches!(sent.tcp_state, LISTEN | NEW_SYN_RECV) {
            // SAFETY: `sk` is a full socket of the running program.
            unsafe { note_listener(sk) };
            return Judged::Passes;
        }
        if let Some(sock) = known {
            if let Some(judged) = stream(ctx, sent, sock, applied, forged) {
                return judged;
            }
        }
    } else if !sent.is_udp() {
        return other(ctx, sk, sent, known, applied, forged);
    }
    by_header(ctx, sk, sent, known, applied, forged)
}

/// Judges a connection by the state of its socket. `None` if the state has no destination.
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
    // `listener::answers_stay` drops the proxy's answer to a forged source. But Linux 6.1 runs no egress hook
    // for the answer to a handshake over IPv6, so over IPv6 the SYN is denied here.
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

/// Publishes the origin of a redirected flow when its first packet is sent.
#[inline(always)]
fn publish(ctx: &SkBuffContext, sent: &Sent, sock: Sock<'_>) -> bool {
    sent.tcp_state == SYN_SENT
        && Skb(ctx)
            .plain4()
            .or_else(|| Skb(ctx).plain6())
            .is_some_and(|plain| origin::publish(ctx, sock, plain.from, plain.from_port))
}

/// Judges a flow that started under another policy or generation. It goes on only if the present one lists it.
/// Its connect has decided whether it goes through the proxy, which does not change later. But a flow that has
/// not sent its first packet and now needs the proxy is denied.
#[inline(always)]
fn rejudge(sock: Sock<'_>, applied: &Applied, tcp_state: u32) -> Judged {
    let to = sock.destination();
    match judge(applied, sock.netns(), &to) {
        Verdict::Deny(reason) => Judged::Denied(to, reason),
        Verdict::Proxy if tcp_state == SYN_SENT && !sock.mode().is_redirected() => {
            Judged::Denied(to, Reason::NoProxy)
        }
        // It would go past the agent's DNS server.
        Verdict::Dns if !sock.mode().is_redirected() => Judged::Denied(to, Reason::NoDns),
        Verdict::Allow | Verdict::Proxy | Verdict::Dns => {
            renew(sock, applied);
            Judged::Passes
        }
    }
}

/// Judges a packet of a socket that is neither TCP nor UDP: raw, ping, SCTP and others. In a network namespace
/// that a workload created, these include the kernel's own sockets, which may do neighbour discovery and answer on
/// loopback. A workload's socket may not, and where the kernel's types do not tell them apart, one that is older than
/// the gate may too.
#[inline(always)]
fn other(
    ctx: &SkBuffContext,
    sk: *mut bpf_sock,
    sent: &Sent,
    known: Option<Sock<'_>>,
    applied: &Applied,
    forged: bool,
) -> Judged {
    let owned = known.is_some_and(|sock| sock.mode().has(socket_flag::OWNED));
    if !owned && sender::may_be_of_kernel(sk) {
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

/// Judges datagrams, and streams whose connect no hook saw, by the packet's header.
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
    let plain = if sent.is_udp() && sent.device == LOOPBACK {
        Skb(ctx).plain4().or_else(|| Skb(ctx).plain6())
    } else {
        None
    };
    let another = sent.is_udp()
        && sent.device == LOOPBACK
        && !plain.is_some_and(|plain| sender::is_own(sk, &plain.from));
    if let (Some(plain), Some(sock), false) = (plain, known, another) {
        let slot = dns::asked(sk, &to);
        if !slot.is_null() {
            // The source may be an address of the node: `listener::answers_stay` keeps the answer here.
            // SAFETY: a slot of this socket.
            return match unsafe { dns::publish(ctx, sock, applied, &plain, slot) } {
                Ok(()) => Judged::Passes,
                Err(reason) => Judged::Denied(to, reason),
            };
        }
    }
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
        // The packet was not redirected, so it would bypass the proxy or the DNS server.
        Verdict::Proxy => Judged::Denied(to, Reason::NoProxy),
        Verdict::Dns => Judged::Denied(to, Reason::NoDns),
        // The socket's state may be that of another thread's datagram, so the table of peers decides.
        // SAFETY: takes no pointer but the context.
        Verdict::Deny(Reason::NotListed)
            if answers(unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }, &to) =>
        {
            Judged::Passes
        }
        Verdict::Deny(reason) => Judged::Denied(to, reason),
    }
}
