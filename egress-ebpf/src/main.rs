//! The BPF programs: one entry point per hook, each a call into its family under `bpf/`.
//!
//! No decision is made here; see `decide.rs` and `verdict.rs` in the library.
#![no_std]
#![no_main]

mod bpf;

use aya_ebpf::macros::{
    cgroup_skb, cgroup_sock, cgroup_sock_addr, cgroup_sockopt, lsm_cgroup, sock_ops, socket_filter,
};
use aya_ebpf::programs::{
    LsmContext, SkBuffContext, SockAddrContext, SockContext, SockOpsContext, SockoptContext,
};
use bpf::{backstop, connect, datagram, listener, options, origin, probe, server, socket};
use egress_ebpf::verdict::NOTED;

#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    socket::create(&ctx)
}

/// Optional: a kernel without BPF LSM does not load it, and no other program depends on it.
#[lsm_cgroup(hook = "socket_create")]
fn socket_create(ctx: LsmContext) -> i32 {
    socket::family(&ctx)
}

#[cgroup_sock_addr(bind4)]
fn bind4(ctx: SockAddrContext) -> i32 {
    listener::bind4(&ctx)
}

#[cgroup_sock_addr(bind6)]
fn bind6(ctx: SockAddrContext) -> i32 {
    listener::bind6(&ctx)
}

#[cgroup_sockopt(setsockopt)]
fn setsockopt(ctx: SockoptContext) -> i32 {
    options::set(&ctx)
}

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    connect::v4(&ctx)
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    connect::v6(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    datagram::send4(&ctx)
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    datagram::send6(&ctx)
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    datagram::receive4(&ctx)
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    datagram::receive6(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    datagram::peer4(&ctx)
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    datagram::peer6(&ctx)
}

#[sock_ops]
fn workload_ops(ctx: SockOpsContext) -> u32 {
    server::accepted(&ctx);
    NOTED
}

#[sock_ops]
fn agent_ops(ctx: SockOpsContext) -> u32 {
    origin::agent(&ctx);
    NOTED
}

/// Inlined into its entry point, because a call and its return cost each packet 10 ns.
#[cgroup_skb(egress)]
#[inline(always)]
fn egress(ctx: SkBuffContext) -> i32 {
    backstop::egress(&ctx)
}

#[cgroup_skb(egress)]
fn agent_egress(ctx: SkBuffContext) -> i32 {
    listener::answers_stay(&ctx)
}

/// Never attached: tests run it with `BPF_PROG_TEST_RUN`, to compare the kernel's decision with the host's.
#[socket_filter]
fn decide_probe(ctx: SkBuffContext) -> i64 {
    probe::probe(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable: the verifier rejects a program in which a panic could be reached.
    loop {}
}

/// Some helpers are available to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
