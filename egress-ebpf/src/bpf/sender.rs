//! Whether the kernel itself checks a datagram's source address, whether a packet goes to every host of a link, and
//! whether it is the kernel's own. No helper shows this, so all are read from the kernel's structures.

use crate::bpf::memory::{address, bit, place, read};
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::programs::SkBuffContext;
use core::ptr;
use egress_ebpf::addr::{Addr, ITSELF};
use egress_ebpf::decide::Destination;
use egress_ebpf::verdict::Reason;

/// `RTCF_BROADCAST` of include/uapi/linux/in_route.h.
const BROADCAST: u32 = 0x1000_0000;
/// `SKB_DST_NOREF`: the lowest bit of `_skb_refdst` is not part of the address.
const NO_REFERENCE: u64 = 1;

/// Whether a socket may send from any address. Without these options the kernel accepts only source addresses of the
/// network namespace (`ip_route_output_key_hash_rcu`, `ip6_datagram_send_ctl`, `__inet6_bind`). For IPv4 only
/// `IP_TRANSPARENT` allows a foreign one.
#[inline(always)]
pub fn may_claim(sk: *mut bpf_sock, v6: bool) -> bool {
    if place!(known) == 0 {
        return false;
    }
    let Some(sk) = address(sk) else {
        return true;
    };
    bit(sk, place!(transparent)) || (v6 && (bit(sk, place!(freebind)) || nonlocal_bind6(sk)))
}

/// The IPv4 address that a socket is bound to; unspecified if it is not bound.
#[inline(always)]
pub fn bound4(sk: *mut bpf_sock) -> Addr {
    // SAFETY: a field of a socket that the verifier accepts.
    Addr::from_v4_be(unsafe { ptr::read_volatile(&raw const (*sk).src_ip4) })
}

/// The IPv6 address that a socket is bound to; unspecified if it is not bound.
#[inline(always)]
pub fn bound6(sk: *mut bpf_sock) -> Addr {
    // SAFETY: fields of a socket that the verifier accepts.
    let words = unsafe {
        let v6 = &raw const (*sk).src_ip6;
        [
            ptr::read_volatile(&raw const (*v6)[0]),
            ptr::read_volatile(&raw const (*v6)[1]),
            ptr::read_volatile(&raw const (*v6)[2]),
            ptr::read_volatile(&raw const (*v6)[3]),
        ]
    };
    Addr::from_v6_be(words)
}

/// Whether a packet's source is the address that its socket is bound to. True if it is not bound. On the loopback
/// device all of 127.0.0.0/8 belongs to the node, including the address of another program's resolver, and
/// `IP_PKTINFO` can name any of them.
#[inline(always)]
pub fn is_own(sk: *mut bpf_sock, from: &Addr) -> bool {
    // Both are read before any branch, see `context`.
    let (v4, v6) = (bound4(sk), bound6(sk));
    let own = if from.is_v4() { v4 } else { v6 };
    own.is_unspecified() || own == *from
}

/// Whether a socket that is older than the gate claims a source. No hook saw its bind().
#[inline(always)]
pub fn older_claims(sk: *mut bpf_sock, v6: bool) -> bool {
    if place!(known) == 0 {
        return false;
    }
    let Some(address) = address(sk) else {
        return true;
    };
    if v6 {
        bit(address, place!(bound)) && may_claim(sk, true)
    } else {
        bit(address, place!(transparent))
    }
}

/// The shortest prefix length with which a network can list a datagram that leaves the node, by the datagram's route.
///
/// # Errors
/// The socket claims its source. This is not checked for a socket that was created behind the gate (`owned`), because
/// the other hooks have seen each source that it names.
#[inline(always)]
pub fn shortest_network(
    ctx: &SkBuffContext,
    sk: *mut bpf_sock,
    owned: bool,
    to: &Destination,
) -> Result<u32, Reason> {
    if !owned && older_claims(sk, !to.addr.is_v4()) {
        return Err(Reason::ForgedSource);
    }
    let all = to.addr.is_v4() && is_broadcast(ctx);
    Ok(if all { ITSELF } else { 0 })
}

/// Whether the route of an IPv4 packet leads to a broadcast address.
#[inline(always)]
pub fn is_broadcast(ctx: &SkBuffContext) -> bool {
    if place!(known) == 0 {
        return false;
    }
    let flags = address(ctx.skb.skb)
        .and_then(|skb| read::<u64>(skb, place!(skb_dst)))
        .and_then(|dst| read::<u32>(dst & !NO_REFERENCE, place!(route_flags)));
    // Without a route the destination is not known, so it counts as broadcast.
    flags.is_none_or(|flags| flags & BROADCAST != 0)
}

/// Whether a socket may be one of the kernel's own, such as those that answer ICMP. True if that is not known.
#[inline(always)]
pub fn may_be_of_kernel(sk: *mut bpf_sock) -> bool {
    place!(known) == 0 || address(sk).is_none_or(|sk| bit(sk, place!(of_kernel)))
}

#[inline(always)]
fn nonlocal_bind6(sk: u64) -> bool {
    let net = read::<u64>(sk, place!(sock_net));
    let set = net.and_then(|net| read::<u8>(net, place!(nonlocal_bind6)));
    set.is_none_or(|set| set != 0)
}
