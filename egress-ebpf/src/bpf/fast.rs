//! The egress hook's fast path: recognises packets of a flow that was allowed and still is. `backstop` judges all
//! others.

use crate::bpf::context::{LOOPBACK, SYN_SENT};
use crate::bpf::judge::{fresh, has_passed};
use crate::bpf::sender;
use crate::bpf::server::is_accepted;
use crate::bpf::skb::Skb;
use crate::bpf::sock::Sock;
use aya_ebpf::bindings::bpf_sock;
use egress_ebpf::abi::{Mode, proto, socket_flag};
use egress_ebpf::ids::CgroupId;
use egress_ebpf::packet::Plain;

/// Whether a packet belongs to a flow that was allowed and still is. Nearly every packet does, and this check
/// costs one lookup. The backstop judges all others.
#[inline(always)]
pub fn is_settled(
    skb: &Skb<'_>,
    sk: *mut bpf_sock,
    sock: Sock<'_>,
    device: u32,
    tcp_state: u32,
) -> bool {
    // For a socket older than the gate, only the packet shows the owner.
    if sock.cgroup() == CgroupId(0) {
        return false;
    }
    let mode = sock.mode();
    let accepted = is_accepted(sock, mode, tcp_state);
    let judged = fresh(sock);
    if !accepted && judged.is_none() {
        return false;
    }
    let flow = Flow {
        skb,
        sk,
        sock,
        mode,
        accepted,
        judged: judged.unwrap_or_default(),
        device,
        tcp_state,
    };
    // There is one call for each family, because the compiler would keep a common form on the stack.
    if let Some(plain) = skb.plain4() {
        return flow.has(&plain);
    }
    skb.plain6().is_some_and(|plain| flow.has(&plain))
}

/// The allowed flow of a socket's state.
struct Flow<'a> {
    skb: &'a Skb<'a>,
    sk: *mut bpf_sock,
    sock: Sock<'a>,
    mode: Mode,
    accepted: bool,
    /// The pair of policy and generation that applies.
    judged: u64,
    device: u32,
    tcp_state: u32,
}

impl Flow<'_> {
    /// Whether a packet belongs to this flow.
    #[inline(always)]
    fn has(&self, plain: &Plain) -> bool {
        if plain.to.proto != self.sock.proto() {
            return false;
        }
        if self.accepted {
            return true;
        }
        if plain.to.proto == proto::TCP {
            // Only the first packet of a stream is checked, because its addresses do not change.
            let first = self.tcp_state == SYN_SENT && self.device == LOOPBACK;
            return self.mode.action() != 0
                && (!first || plain.source_is_local())
                && !has_strayed(self.sock, self.mode, self.device)
                && (!self.mode.is_redirected() || self.mode.has(socket_flag::PUBLISHED));
        }
        let from_here = if self.device == LOOPBACK {
            plain.source_is_local() && sender::is_own(self.sk, &plain.from)
        } else {
            !plain.to.addr.is_loopback()
        };
        // Only the egress hook sees the route. A broadcast must be listed itself, which the backstop checks.
        let may_broadcast =
            self.device != LOOPBACK && plain.to.addr.is_v4() && self.sock.may_broadcast();
        from_here
            && has_passed(self.sock, &plain.to, self.judged)
            && !(may_broadcast && sender::is_broadcast(self.skb.0))
    }
}

/// Whether a flow that was allowed as loopback leaves by another device: because the socket is bound to a device,
/// or because it dialled the unspecified address, which became the address that it is bound to.
#[inline(always)]
pub fn has_strayed(sock: Sock<'_>, mode: Mode, device: u32) -> bool {
    device != LOOPBACK && (mode.is_redirected() || sock.dialled().is_loopback())
}
