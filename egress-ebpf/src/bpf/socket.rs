//! Socket creation: stores the socket's owner, and denies kinds of sockets that no rule can list.

use crate::bpf::context::{AF_INET, AF_INET6, AF_NETLINK, AF_UNIX, SOCK_DGRAM, SOCK_STREAM};
use crate::bpf::event;
use crate::bpf::judge::policy_of;
use crate::bpf::owner;
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_set_retval;
use aya_ebpf::programs::{LsmContext, SockContext};
use core::ptr;
use egress_ebpf::abi::{Mode, SocketState, policy_flag, proto, socket_flag};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Reason, Verdict};

/// `IPPROTO_MPTCP`: one socket with several flows. The kernel creates the later ones.
const MPTCP: u32 = 262;
const EPROTONOSUPPORT: i32 = 93;

/// Runs in the context of the task that calls `socket()` (`inet_create`, `inet6_create`).
#[inline(always)]
pub fn create(ctx: &SockContext) -> i32 {
    // SAFETY: context fields of `bpf_sock` that sock_create may read.
    let (kind, protocol) = unsafe {
        (
            ptr::read_volatile(&raw const (*ctx.sock).type_),
            ptr::read_volatile(&raw const (*ctx.sock).protocol),
        )
    };
    let listable = (kind == SOCK_STREAM && protocol == u32::from(proto::TCP))
        || (kind == SOCK_DGRAM && protocol == u32::from(proto::UDP));
    let number = if protocol == MPTCP {
        proto::MPTCP
    } else {
        protocol as u8
    };
    let to = Destination {
        addr: Addr::UNSPECIFIED,
        port: 0,
        proto: number,
    };
    let Some(sock) = Sock::find_or_make(ctx.sock.cast()) else {
        return event::deny(None, None, &to, Reason::State, Hook::SockCreate).return_code();
    };
    sock.set_cgroup(owner::of_task());
    sock.netns_or_ask(ctx.as_ptr());
    sock.set_mode(Mode(0).with(socket_flag::OWNED));
    sock.set_proto(number);
    if listable {
        // The first use of the socket notes the task.
        return Verdict::Allow.return_code();
    }
    sock.note_task();
    let applied = policy_of(sock);
    if applied.policy.flags & policy_flag::ALLOW_ANY != 0 {
        return Verdict::Allow.return_code();
    }
    let verdict = event::deny(
        Some(sock),
        Some(&applied),
        &to,
        Reason::Protocol,
        Hook::SockCreate,
    );
    if verdict != Verdict::Allow && protocol == MPTCP {
        // Programs that try MPTCP first fall back to TCP on this errno, and maybe not on others.
        // SAFETY: a plain integer argument.
        unsafe { bpf_set_retval(-EPROTONOSUPPORT) };
    }
    verdict.return_code()
}

/// Runs for `socket()` and `socketpair()` of every address family (`security_socket_create`). Denies packet, VM, TIPC,
/// RDS, Bluetooth and other sockets, which the hooks of IP sockets do not see.
#[inline(always)]
pub fn family(ctx: &LsmContext) -> i32 {
    let (family, kern): (i32, i32) = (ctx.arg(0), ctx.arg(3));
    // Families whose sockets the other hooks judge, or that cannot leave the node.
    if kern != 0 || matches!(family, AF_UNIX | AF_INET | AF_INET6 | AF_NETLINK) {
        return Verdict::Allow.return_code();
    }
    let mut state = SocketState::default();
    let sock = Sock::of(&mut state);
    sock.set_cgroup(owner::of_task());
    sock.note_task();
    let applied = policy_of(sock);
    if applied.policy.flags & policy_flag::ALLOW_ANY != 0 {
        return Verdict::Allow.return_code();
    }
    // These sockets have no port, so the event has the family in its place.
    let to = Destination {
        addr: Addr::UNSPECIFIED,
        port: family as u16,
        proto: 0,
    };
    event::deny(
        Some(sock),
        Some(&applied),
        &to,
        Reason::Protocol,
        Hook::SocketCreate,
    )
    .return_code()
}
