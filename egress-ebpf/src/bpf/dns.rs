//! Queries over UDP that are redirected to the agent's DNS server. The port in the rewritten destination stands for the
//! server that the client asked, so one socket can ask several servers at the same time.
//!
//! Knows nothing of messages. TCP to port 53 goes the way of all redirected connections (`connect`, `origin`).

use crate::bpf::context::{LOOPBACK4, LOOPBACK6, show4, show6, sock_of};
use crate::bpf::judge::{Applied, dns_port};
use crate::bpf::listener;
use crate::bpf::maps::{DNS_CLIENTS, DNS_SERVERS, DNS_SHARES};
use crate::bpf::share::within_share;
use crate::bpf::sock::Sock;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_ktime_get_ns, bpf_sk_storage_get};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use core::ffi::c_void;
use core::ptr;
use egress_ebpf::abi::{
    DNS_CLIENTS_PER_SECOND, DNS_PORT, DNS_SLOTS, DnsClient, DnsClientKey, DnsServers, DnsSlot,
    policy_flag, proto,
};
use egress_ebpf::addr::Addr;
use egress_ebpf::decide::Destination;
use egress_ebpf::packet::Plain;
use egress_ebpf::verdict::{Reason, Verdict};

/// The servers that a socket asks.
#[inline(always)]
fn servers(sk: *mut c_void, flags: u64) -> *mut DnsServers {
    let map = ptr::from_ref(&DNS_SERVERS).cast_mut().cast();
    // SAFETY: the verifier checks the types of `map` and `sk`. The value lives as long as the socket, which outlives
    // the program's run.
    unsafe { bpf_sk_storage_get(map, sk, ptr::null_mut(), flags).cast() }
}

/// Finds or takes the slot of a server, under the socket's lock. Returns the verdict and the agent's port to redirect
/// to.
#[inline(always)]
pub fn redirect(ctx: &SockAddrContext, sock: Sock<'_>, to: &Destination) -> (Verdict, u16) {
    let servers = servers(sock_of(ctx), BPF_SK_STORAGE_GET_F_CREATE as u64);
    if servers.is_null() {
        return (Verdict::Deny(Reason::State), 0);
    }
    let netns = sock.netns();
    // SAFETY: the value of this socket, which only this program writes while it holds the socket's lock.
    let slot = unsafe { slot_of(servers, &to.addr) };
    let port = dns_port(netns, slot);
    if port == 0 || !listener::is_there(ctx, to.addr.is_v4(), port, proto::UDP) {
        return (Verdict::Deny(Reason::NoDns), 0);
    }
    let mut at = 0;
    while at < DNS_SLOTS {
        if at == slot {
            // SAFETY: as above. The egress hook may read a mixture, see `DnsServers`.
            unsafe {
                let place = &raw mut (*servers).slots[at];
                if (*place).local == 0 || (*place).server != to.addr {
                    (*servers).oldest = ((at + 1) % DNS_SLOTS) as u32;
                }
                (*place).server = to.addr;
                (*place).local = port;
            }
        }
        at += 1;
    }
    (Verdict::Dns, port)
}

/// The slot that has a server; otherwise an empty one; otherwise the one that was taken the longest ago.
///
/// # Safety
/// `servers` points to a whole value.
#[inline(always)]
unsafe fn slot_of(servers: *const DnsServers, server: &Addr) -> usize {
    // SAFETY: the caller's.
    let (slots, oldest) = unsafe { (&(*servers).slots, (*servers).oldest as usize) };
    let mut found = oldest % DNS_SLOTS;
    let mut at = DNS_SLOTS;
    while at > 0 {
        at -= 1;
        if slots[at].local == 0 {
            found = at;
        }
    }
    while at < DNS_SLOTS {
        if slots[at].local != 0 && slots[at].server == *server {
            found = at;
        }
        at += 1;
    }
    found
}

/// The slot of the server that a socket asks through this address of the agent; null if there is none. It is a pointer,
/// because the compiler may otherwise compute with the undefined address of "none", which the verifier rejects.
#[inline(always)]
fn slot_behind(sk: *mut c_void, agent: &Destination) -> *const DnsSlot {
    let servers = servers(sk, 0);
    let mut found: *const DnsSlot = ptr::null();
    if servers.is_null() || agent.port == 0 {
        return found;
    }
    let mut at = 0;
    while at < DNS_SLOTS {
        // SAFETY: a value of the socket. Without the socket's lock the address may be a mixture, see `DnsServers`.
        let (slot, local, server) = unsafe {
            let slot = &raw const (*servers).slots[at];
            (
                slot,
                ptr::read_volatile(&raw const (*slot).local),
                server(slot),
            )
        };
        let loopback = if server.is_v4() {
            Addr::from_v4_be(LOOPBACK4)
        } else {
            Addr::from_v6_be(LOOPBACK6)
        };
        if local == agent.port && loopback == agent.addr {
            found = slot;
        }
        at += 1;
    }
    found
}

/// The server of a slot.
///
/// # Safety
/// `slot` points to a whole value.
#[inline(always)]
unsafe fn server(slot: *const DnsSlot) -> Addr {
    // SAFETY: the caller's.
    let word = |n: usize| unsafe { ptr::read_volatile(&raw const (*slot).server.be[n]) };
    Addr::from_v6_be([word(0), word(1), word(2), word(3)])
}

/// Whether a datagram goes to an address of the agent to which this socket was redirected before. A connected IPv6
/// socket sends to a mapped address in this way: sendmsg4 runs with the rewritten address.
#[inline(always)]
pub fn was_redirected(ctx: &SockAddrContext, to: &Destination) -> bool {
    !slot_behind(sock_of(ctx), to).is_null()
}

/// Shows the server that the client asked, instead of the agent's address. Returns whether it did.
#[inline(always)]
pub fn restore4(ctx: &SockAddrContext, from: &Destination) -> bool {
    if from.proto != proto::UDP || !from.addr.is_loopback() {
        return false;
    }
    let slot = slot_behind(sock_of(ctx), from);
    if slot.is_null() {
        return false;
    }
    // SAFETY: a slot of this socket.
    let words = unsafe { server(slot).be[3] };
    show4(ctx, words, DNS_PORT);
    true
}

/// [`restore4`] of an IPv6 socket.
#[inline(always)]
pub fn restore6(ctx: &SockAddrContext, from: &Destination) -> bool {
    if from.proto != proto::UDP || !from.addr.is_loopback() {
        return false;
    }
    let slot = slot_behind(sock_of(ctx), from);
    if slot.is_null() {
        return false;
    }
    // SAFETY: a slot of this socket.
    let words = unsafe { server(slot).be };
    show6(ctx, words, DNS_PORT);
    true
}

/// The slot of the server that a packet's socket asks through the packet's destination; null if there is none.
#[inline(always)]
pub fn asked(sk: *mut bpf_sock, to: &Destination) -> *const DnsSlot {
    if !to.addr.is_loopback() {
        return ptr::null();
    }
    slot_behind(sk.cast(), to)
}

/// Publishes the owner of a redirected datagram and the server that it was sent to, and marks the datagram. Without
/// that, the agent drops the datagram, so it does not leave.
///
/// # Errors
/// The reason why it must not leave.
///
/// # Safety
/// `slot` is one of the packet's socket.
#[inline(always)]
pub unsafe fn publish(
    ctx: &SkBuffContext,
    sock: Sock<'_>,
    applied: &Applied,
    plain: &Plain,
    slot: *const DnsSlot,
) -> Result<(), Reason> {
    // A socket that was redirected under another policy asks again with a new connect.
    if applied.policy.flags & policy_flag::DNS == 0 {
        return Err(Reason::NoDns);
    }
    let key = DnsClientKey {
        netns: sock.netns(),
        addr: plain.from,
        port: plain.from_port,
        local: plain.to.port,
        reserved: 0,
    };
    let mut client = DnsClient {
        cgroup: sock.cgroup(),
        // SAFETY: takes no pointer but the context.
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        // SAFETY: the caller's.
        server: unsafe { server(slot) },
        pid: sock.pid(),
        mark: 0,
        seal: 0,
    };
    // SAFETY: takes no argument and only reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    match DNS_CLIENTS.get_ptr(&key) {
        None => {
            if !within_share(&DNS_SHARES, DNS_CLIENTS_PER_SECOND, client.cgroup, now) {
                return Err(Reason::FlowTableFull);
            }
            client.mark = DnsClient::mark_after(now as u32);
        }
        Some(found) => {
            // SAFETY: words of a map element, which stays mapped while the program runs. If the kernel gives the element
            // to another address meanwhile, the seal differs, and the entry is written again.
            let before = unsafe {
                DnsClient {
                    cgroup: ptr::read_volatile(&raw const (*found).cgroup),
                    cookie: ptr::read_volatile(&raw const (*found).cookie),
                    server: client.server,
                    pid: ptr::read_volatile(&raw const (*found).pid),
                    mark: ptr::read_volatile(&raw const (*found).mark),
                    seal: ptr::read_volatile(&raw const (*found).seal),
                }
            };
            let same = before.cookie == client.cookie && before.cgroup == client.cgroup;
            client.mark = if same {
                before.mark
            } else {
                DnsClient::mark_after(before.mark)
            };
        }
    }
    // SAFETY: a local value.
    client.seal = unsafe { DnsClient::sealed(&raw const client, &key) };
    let published = DNS_CLIENTS.get_ptr(&key).is_some_and(|found| {
        // SAFETY: as above. The seal is over all words of the value.
        client.seal == unsafe { ptr::read_volatile(&raw const (*found).seal) }
    });
    if !published && DNS_CLIENTS.insert(&key, &client, 0).is_err() {
        return Err(Reason::FlowTableFull);
    }
    // SAFETY: a context field that cgroup_skb may write.
    unsafe { ptr::write_volatile(&raw mut (*ctx.skb.skb).mark, client.mark) };
    Ok(())
}
