//! setsockopt() of a workload: denies options with which a socket can use a source address outside its network
//! namespace. The receiver of such a datagram would answer to the claimed address.

use crate::bpf::event;
use crate::bpf::judge::policy_of;
use crate::bpf::sock::Sock;
use aya_ebpf::programs::SockoptContext;
use core::ptr;
use egress_ebpf::abi::policy_flag;
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::{Hook, Reason, Verdict};

// Levels and options of include/uapi/linux/in.h, in6.h and tcp.h. `SOL_IP` options work on IPv6
// sockets too (`ipv6_setsockopt`).
const SOL_IP: i32 = 0;
const IP_FREEBIND: i32 = 15;
const IP_TRANSPARENT: i32 = 19;
const SOL_IPV6: i32 = 41;
const IPV6_TRANSPARENT: i32 = 75;
const IPV6_FREEBIND: i32 = 78;
const SOL_SOCKET: i32 = 1;
const SO_BROADCAST: i32 = 6;
const SOL_TCP: i32 = 6;
/// Creates a connection without a handshake, which the other end does not know.
const TCP_REPAIR: i32 = 19;

/// The most bytes of a value that the kernel copies for the program (`sockopt_alloc_buf` in kernel/bpf/cgroup.c).
const PAGE: i32 = 4096;

/// Runs before the kernel's handler, with a copy of the value that the handler gets.
#[inline(always)]
pub fn set(ctx: &SockoptContext) -> i32 {
    // SAFETY: context fields that setsockopt may read.
    let (level, name, length) = unsafe {
        (
            ptr::read_volatile(&raw const (*ctx.sockopt).level),
            ptr::read_volatile(&raw const (*ctx.sockopt).optname),
            ptr::read_volatile(&raw const (*ctx.sockopt).optlen),
        )
    };
    if claims_a_sender(level, name) {
        return if turns_off(ctx, length) {
            Verdict::Allow.return_code()
        } else {
            deny(ctx)
        };
    }
    if level == SOL_SOCKET && name == SO_BROADCAST && !turns_off(ctx, length) {
        return note_broadcasts(ctx);
    }
    if length > PAGE {
        // 0 means that the program does not use the value, so the handler gets the caller's buffer. Without this,
        // a value longer than a page fails with EFAULT.
        // SAFETY: a context field that setsockopt may write.
        unsafe { ptr::write_volatile(&raw mut (*ctx.sockopt).optlen, 0) };
    }
    Verdict::Allow.return_code()
}

#[inline(always)]
fn claims_a_sender(level: i32, name: i32) -> bool {
    match level {
        SOL_IP => name == IP_FREEBIND || name == IP_TRANSPARENT,
        SOL_IPV6 => name == IPV6_FREEBIND || name == IPV6_TRANSPARENT,
        SOL_TCP => name == TCP_REPAIR,
        _ => false,
    }
}

/// Whether the value is the number zero. The kernel reads an `int`, or one byte of a shorter value.
#[inline(always)]
fn turns_off(ctx: &SockoptContext, length: i32) -> bool {
    // SAFETY: context fields that setsockopt may read. The verifier checks that the reads of the value are inside
    // the bounds.
    unsafe {
        let value = (*ctx.sockopt).__bindgen_anon_2.optval as usize;
        let end = (*ctx.sockopt).__bindgen_anon_3.optval_end as usize;
        if length >= 4 && length <= PAGE && value + 4 <= end {
            return ptr::read_unaligned(value as *const u32) == 0;
        }
        length >= 1 && length < 4 && value + 1 <= end && *(value as *const u8) == 0
    }
}

/// Notes that the socket may broadcast. Without the option the kernel sends nothing to a broadcast address.
#[inline(always)]
fn note_broadcasts(ctx: &SockoptContext) -> i32 {
    // SAFETY: a context field that setsockopt may read.
    let sk = unsafe { (*ctx.sockopt).__bindgen_anon_1.sk };
    if sk.is_null() {
        return Verdict::Deny(Reason::State).return_code();
    }
    let Some(sock) = Sock::find_or_make(sk.cast()) else {
        return Verdict::Deny(Reason::State).return_code();
    };
    sock.set_broadcasts(1);
    Verdict::Allow.return_code()
}

#[inline(always)]
fn deny(ctx: &SockoptContext) -> i32 {
    // SAFETY: context fields that setsockopt may read. The socket is a full socket.
    let (sk, protocol) = unsafe {
        let sk = (*ctx.sockopt).__bindgen_anon_1.sk;
        if sk.is_null() {
            return Verdict::Deny(Reason::State).return_code();
        }
        (sk, ptr::read_volatile(&raw const (*sk).protocol))
    };
    let to = Destination {
        addr: Addr::UNSPECIFIED,
        port: 0,
        proto: protocol as u8,
    };
    let Some(sock) = Sock::find_or_make(sk.cast()) else {
        return event::deny(None, None, &to, Reason::State, Hook::Setsockopt).return_code();
    };
    sock.note_task();
    let applied = policy_of(sock);
    if applied.policy.flags & policy_flag::ALLOW_ANY != 0 {
        return Verdict::Allow.return_code();
    }
    event::deny(
        Some(sock),
        Some(&applied),
        &to,
        Reason::ForgedSource,
        Hook::Setsockopt,
    )
    .return_code()
}
