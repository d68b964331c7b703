//! The packet parser of the egress backstop: reads the destination of a packet that starts at its IP header.
//! It does not follow what could hide the transport header or send the packet to another address: a fragment,
//! an IPv4 option, an IPv6 extension header or a truncated packet is denied.

use crate::abi::proto;
use crate::addr::Addr;
use crate::decide::Destination;
use crate::verdict::Reason;

/// Reads bytes of a packet by offset.
pub trait Packet {
    /// `N` bytes from `offset`; `None` past the packet's end.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// Four bytes from `offset` as a big-endian number; 0 past the packet's end. It is a value in both cases,
    /// because the compiler may otherwise compute with an undefined register, which the verifier of Linux 6.1
    /// rejects.
    #[inline(always)]
    fn word(&self, offset: u32) -> u32 {
        self.load(offset).map_or(0, u32::from_be_bytes)
    }
}

/// Flags and offset of an IPv4 header without "don't fragment" and the reserved bit. If another bit is set,
/// the packet is a fragment (RFC 791 §3.1).
const V4_FRAGMENT_MASK: u16 = 0x3fff;

/// Version 4 with a header of five words, so without options: a source route option would send the packet to
/// another address than the socket's (`__ip_queue_xmit` in net/ipv4/ip_output.c).
const V4_PLAIN: u8 = 0x45;

/// Source and destination of a packet with its transport header right after a plain IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain {
    /// Its source address.
    pub from: Addr,
    /// Its source port, host byte order.
    pub from_port: u16,
    /// Its destination.
    pub to: Destination,
}

impl Plain {
    /// Reads the first words of an IPv4 packet of TCP or UDP, up to its ports. `None` for every other packet;
    /// [`destination`] returns the reason.
    #[must_use]
    #[inline(always)]
    pub fn v4(words: &[u32; 6]) -> Option<Self> {
        let [first, fragment, middle, from, to, ports] = *words;
        let fragment = u32::from_be(fragment) as u16 & V4_FRAGMENT_MASK;
        if (u32::from_be(first) >> 24) as u8 != V4_PLAIN || fragment != 0 {
            return None;
        }
        let proto = (u32::from_be(middle) >> 16) as u8;
        Self::of(Addr::from_v4_be(from), Addr::from_v4_be(to), proto, ports)
    }

    /// The same for IPv6.
    #[must_use]
    #[inline(always)]
    pub fn v6(words: &[u32; 11]) -> Option<Self> {
        let [first, next, f0, f1, f2, f3, t0, t1, t2, t3, ports] = *words;
        if u32::from_be(first) >> 28 != 6 {
            return None;
        }
        let proto = (u32::from_be(next) >> 8) as u8;
        let (from, to) = ([f0, f1, f2, f3], [t0, t1, t2, t3]);
        Self::of(Addr::from_v6_be(from), Addr::from_v6_be(to), proto, ports)
    }

    /// The same for an IPv6 packet of TCP over 64 KiB (`is_jumbo`).
    #[must_use]
    #[inline(always)]
    pub fn jumbo(words: &[u32; 13]) -> Option<Self> {
        let [
            first,
            next,
            f0,
            f1,
            f2,
            f3,
            t0,
            t1,
            t2,
            t3,
            hop,
            length,
            ports,
        ] = *words;
        if u32::from_be(first) >> 28 != 6 || !is_jumbo([next, hop, length].map(u32::from_be)) {
            return None;
        }
        let (from, to) = ([f0, f1, f2, f3], [t0, t1, t2, t3]);
        Self::of(
            Addr::from_v6_be(from),
            Addr::from_v6_be(to),
            proto::TCP,
            ports,
        )
    }

    #[inline(always)]
    fn of(from: Addr, to: Addr, proto: u8, ports: u32) -> Option<Self> {
        let ports = u32::from_be(ports);
        (proto == proto::TCP || proto == proto::UDP).then_some(Self {
            from,
            from_port: (ports >> 16) as u16,
            to: Destination {
                addr: to,
                port: ports as u16,
                proto,
            },
        })
    }

    /// [`source_is_local`].
    #[must_use]
    #[inline(always)]
    pub fn source_is_local(&self) -> bool {
        is_local(&self.from, &self.to.addr)
    }
}

/// Bytes of the header of [`is_jumbo`].
const JUMBO: u32 = 8;

/// Whether an IPv6 packet has the header that the kernel inserts before TCP if a segment that the device will
/// split is too long for the length field (`ip6_xmit` in net/ipv6/ip6_output.c; the device's driver removes it
/// again). It has payload length 0, one hop-by-hop header of eight bytes with only the jumbo payload option
/// (RFC 2675 §2), a length above 65 535, and then TCP. This header does not change where the packet goes. A
/// hop-by-hop header of a socket (`IPV6_HOPOPTS`) comes with a payload length, or after this header.
///
/// The arguments are the words at 4, 40 and 44.
#[inline(always)]
const fn is_jumbo([fixed, hop, length]: [u32; 3]) -> bool {
    // Payload length and next header are 0.
    fixed >> 8 == 0
        && hop == u32::from_be_bytes([proto::TCP, 0, 0xc2, 4])
        && length > u16::MAX as u32
}

#[inline(always)]
fn has_jumbo<P: Packet>(packet: &P) -> bool {
    is_jumbo([packet.word(4), packet.word(40), packet.word(44)])
}

/// Whether a packet carries TCP right after a plain IP header. A stream is judged by the state of its socket,
/// so nothing in the header may send the packet to another address: no IPv4 option, no IPv6 extension header
/// except the one of `is_jumbo`, and no tunnel header.
#[must_use]
#[inline(always)]
pub fn is_plain_tcp<P: Packet>(packet: &P) -> bool {
    let Some(header) = packet.load::<10>(0) else {
        return false;
    };
    match header[0] >> 4 {
        4 => header[0] == V4_PLAIN && header[9] == proto::TCP,
        6 => header[6] == proto::TCP || has_jumbo(packet),
        _ => false,
    }
}

/// Whether a packet on the loopback device has a true source: a loopback address, or the same address as its
/// destination. The kernel can bind a socket to an address outside the node (`IPV6_FREEBIND`,
/// `IP_TRANSPARENT`). The answer to such a packet, from a server or as the kernel's own reset, would leave the
/// node.
#[must_use]
#[inline(always)]
pub fn source_is_local<P: Packet>(packet: &P) -> bool {
    let word = |at| packet.word(at).to_be();
    if packet.word(0) >> 28 == 4 {
        return is_local(&Addr::from_v4_be(word(12)), &Addr::from_v4_be(word(16)));
    }
    let address = |at| Addr::from_v6_be([word(at), word(at + 4), word(at + 8), word(at + 12)]);
    is_local(&address(8), &address(24))
}

#[inline(always)]
fn is_local(from: &Addr, to: &Addr) -> bool {
    !from.is_unspecified() && (from.is_loopback() || from == to)
}

/// Whether a packet is neighbour discovery or multicast listener discovery that stays on the link. The kernel
/// must send these for IPv6 to work. The checks are those of a receiver: hop limit 255 and types 133 to 137
/// (RFC 4861 §4, §6.1), or a router alert, hop limit 1 and types 130 to 132 and 143 (RFC 2710 §3, RFC 3810
/// §5).
#[must_use]
#[inline(always)]
pub fn is_neighbour_talk<P: Packet>(packet: &P) -> bool {
    // Payload length, next header, hop limit.
    let fixed = packet.word(4);
    let (next, hops) = ((fixed >> 8) as u8, fixed as u8);
    let to = packet.word(24) >> 16;
    let to_link_group = to == 0xff02;
    let to_link = to_link_group || to & 0xffc0 == 0xfe80;
    if packet.word(0) >> 28 != 6 {
        return false;
    }
    let behind = packet.word(40);
    if next == proto::ICMPV6 {
        return hops == 255 && to_link && matches!(behind >> 24, 133..=137);
    }
    // A hop-by-hop header of eight bytes whose first option is the router alert for listener
    // discovery (RFC 2711 §2.1).
    let alert =
        behind == u32::from_be_bytes([proto::ICMPV6, 0, 5, 2]) && packet.word(44) >> 16 == 0;
    let kind = packet.word(48) >> 24;
    next == 0 && hops == 1 && to_link_group && alert && matches!(kind, 130..=132 | 143)
}

#[inline(always)]
fn v6_addr(o: [u8; 16]) -> Addr {
    Addr::from_v6_be([
        u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
        u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
        u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
        u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
    ])
}

/// Reads the destination out of a packet.
///
/// # Errors
/// [`Reason::Unparsable`] if the first headers do not show the destination.
#[inline(always)]
pub fn destination<P: Packet>(packet: &P) -> Result<Destination, Reason> {
    let [first] = packet.load::<1>(0).ok_or(Reason::Unparsable)?;
    match first >> 4 {
        4 => v4(packet, first),
        6 => v6(packet),
        _ => Err(Reason::Unparsable),
    }
}

#[inline(always)]
fn v4<P: Packet>(packet: &P, first: u8) -> Result<Destination, Reason> {
    let header: [u8; 20] = packet.load(0).ok_or(Reason::Unparsable)?;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & V4_FRAGMENT_MASK;
    if first != V4_PLAIN || fragment != 0 {
        return Err(Reason::Unparsable);
    }
    let be = u32::from_ne_bytes([header[16], header[17], header[18], header[19]]);
    transport(packet, header[9], 20, Addr::from_v4_be(be))
}

#[inline(always)]
fn v6<P: Packet>(packet: &P) -> Result<Destination, Reason> {
    let [_, _, _, _, _, _, next, _] = packet.load::<8>(0).ok_or(Reason::Unparsable)?;
    let addr = v6_addr(packet.load(24).ok_or(Reason::Unparsable)?);
    // Hop-by-hop, routing, fragment, AH, destination options, mobility, HIP, shim6 (IANA
    // "IPv6 Extension Header Types"); ESP hides everything behind it.
    match next {
        0 if has_jumbo(packet) => transport(packet, proto::TCP, 40 + JUMBO, addr),
        0 | 43 | 44 | 50 | 51 | 60 | 135 | 139 | 140 => Err(Reason::Unparsable),
        _ => transport(packet, next, 40, addr),
    }
}

#[inline(always)]
fn transport<P: Packet>(packet: &P, proto: u8, at: u32, addr: Addr) -> Result<Destination, Reason> {
    if proto != proto::TCP && proto != proto::UDP {
        return Ok(Destination {
            addr,
            port: 0,
            proto,
        });
    }
    let [_, _, high, low] = packet.load::<4>(at).ok_or(Reason::Unparsable)?;
    Ok(Destination {
        addr,
        port: u16::from_be_bytes([high, low]),
        proto,
    })
}

#[cfg(test)]
mod tests;
