//! Reads the programs' contexts, and defines the kernel's constants that several programs use.
//!
//! Judges nothing. Every field is read before any branch on another one, because the compiler may otherwise merge
//! two loads into one with a computed address, which the verifier rejects.

use aya_ebpf::programs::{SockAddrContext, SockOpsContext};
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;

/// `SOCK_STREAM` and `SOCK_DGRAM` of include/linux/net.h.
pub const SOCK_STREAM: u32 = 1;
pub const SOCK_DGRAM: u32 = 2;

/// Address families of include/linux/socket.h.
pub const AF_UNIX: i32 = 1;
pub const AF_INET: i32 = 2;
pub const AF_INET6: i32 = 10;
pub const AF_NETLINK: i32 = 16;

/// `TCP_SYN_SENT` of include/net/tcp_states.h.
pub const SYN_SENT: u32 = 2;
/// `TCP_LISTEN` and `TCP_NEW_SYN_RECV`: a packet of such a socket is the answer to a handshake.
pub const LISTEN: u32 = 10;
pub const NEW_SYN_RECV: u32 = 12;

/// Index of the loopback device in every network namespace (`LOOPBACK_IFINDEX`).
pub const LOOPBACK: u32 = 1;
/// 127.0.0.1 in network byte order.
pub const LOOPBACK4: u32 = 0x7f00_0001_u32.to_be();
/// `::1`.
pub const LOOPBACK6: [u32; 4] = [0, 0, 0, 1_u32.to_be()];

/// The socket of an address context.
#[inline(always)]
pub fn sock_of(ctx: &SockAddrContext) -> *mut c_void {
    // SAFETY: the context's socket pointer, never null in these hooks.
    unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk.cast() }
}

/// The destination of an IPv4 call.
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

/// The destination of an IPv6 call.
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

/// Rewrites the destination of an IPv4 call to a port of 127.0.0.1.
#[inline(always)]
pub fn redirect4(ctx: &SockAddrContext, port: u16) {
    show4(ctx, LOOPBACK4, port);
}

/// Rewrites the destination of an IPv6 call to a port of the loopback address. A mapped address keeps its family: the
/// flow is IPv4 on the wire, and the socket may be bound to a mapped source.
#[inline(always)]
pub fn redirect6(ctx: &SockAddrContext, to: &Destination, port: u16) {
    let loopback = if to.addr.is_v4() {
        Addr::from_v4_be(LOOPBACK4).be
    } else {
        LOOPBACK6
    };
    show6(ctx, loopback, port);
}

/// Writes the address of an IPv4 call.
#[inline(always)]
pub fn show4(ctx: &SockAddrContext, ip: u32, port: u16) {
    // SAFETY: context fields that connect4, sendmsg4, recvmsg4 and getpeername4 may write.
    unsafe {
        ptr::write_volatile(&raw mut (*ctx.sock_addr).user_ip4, ip);
        ptr::write_volatile(&raw mut (*ctx.sock_addr).user_port, u32::from(port.to_be()));
    }
}

/// Writes the address of an IPv6 call.
#[inline(always)]
pub fn show6(ctx: &SockAddrContext, words: [u32; 4], port: u16) {
    // SAFETY: context fields that connect6, sendmsg6, recvmsg6 and getpeername6 may write.
    unsafe {
        let ip = &raw mut (*ctx.sock_addr).user_ip6;
        ptr::write_volatile(&raw mut (*ip)[0], words[0]);
        ptr::write_volatile(&raw mut (*ip)[1], words[1]);
        ptr::write_volatile(&raw mut (*ip)[2], words[2]);
        ptr::write_volatile(&raw mut (*ip)[3], words[3]);
        ptr::write_volatile(&raw mut (*ctx.sock_addr).user_port, u32::from(port.to_be()));
    }
}

/// The socket of a connection whose handshake has just ended on the accepting side
/// (`BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB`). The accepting task cannot see it yet. `None` for other events and for
/// a request socket.
#[inline(always)]
pub fn accepted(ctx: &SockOpsContext) -> Option<*mut c_void> {
    const PASSIVE_ESTABLISHED: u32 = 5;
    // SAFETY: context fields that sock_ops may read.
    let (op, sk): (u32, *mut c_void) = unsafe {
        (
            ptr::read_volatile(&raw const (*ctx.ops).op),
            (*ctx.ops).__bindgen_anon_2.sk.cast(),
        )
    };
    (op == PASSIVE_ESTABLISHED && !sk.is_null()).then_some(sk)
}
