//! The packet parser of the egress backstop: from a packet that starts at its IP header to the
//! destination that is judged. Whatever could hide the transport header or send the packet
//! elsewhere than its last stop (a fragment, an IPv4 option, an IPv6 extension header, a truncated
//! packet) is refused rather than followed.

use crate::abi::proto;
use crate::addr::Addr;
use crate::decide::Destination;
use crate::verdict::Reason;

/// Bytes of a packet by offset; `None` past its end.
pub trait Packet {
    /// `N` bytes from `offset`.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;

    /// Four bytes from `offset` as a big-endian number, 0 past the packet's end. With a value on
    /// both ways, the compiler has no undefined register to compute with, which the verifier of
    /// Linux 6.1 refuses.
    #[inline(always)]
    fn word(&self, offset: u32) -> u32 {
        self.load(offset).map_or(0, u32::from_be_bytes)
    }
}

/// Flags and offset of an IPv4 header without "don't fragment" and the reserved bit: anything
/// else set means a fragment (RFC 791 §3.1).
const V4_FRAGMENT_MASK: u16 = 0x3fff;

/// Version 4 with a header of five words: no options. With a source route among them the packet
/// goes to another address than the socket's (`__ip_queue_xmit` in net/ipv4/ip_output.c).
const V4_PLAIN: u8 = 0x45;

/// What a packet says that has its transport header right behind a plain IP header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain {
    /// The address that it claims to come from.
    pub from: Addr,
    /// The port of that, host byte order.
    pub from_port: u16,
    /// Where it goes.
    pub to: Destination,
}

impl Plain {
    /// From the first words of an IPv4 packet of TCP or UDP, up to its ports. `None` for every
    /// other: what is wrong with it, [`destination`] says.
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

/// Whether a packet carries TCP right behind a plain IP header. A stream passes by what its socket
/// stored, so nothing in the header may send the packet elsewhere: no IPv4 option, no IPv6
/// extension header, and no tunnel's header in front.
#[must_use]
#[inline(always)]
pub fn is_plain_tcp<P: Packet>(packet: &P) -> bool {
    let Some(header) = packet.load::<10>(0) else {
        return false;
    };
    match header[0] >> 4 {
        4 => header[0] == V4_PLAIN && header[9] == proto::TCP,
        6 => header[6] == proto::TCP,
        _ => false,
    }
}

/// Whether a packet that stays on the loopback device names its true sender: a loopback address,
/// or the very address that it goes to. The kernel lets a socket be bound to an address of the
/// outside (`IPV6_FREEBIND`, `IP_TRANSPARENT`); what answers such a packet, a server or the
/// kernel's own reset, would send its answer to the outside.
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

/// Whether a packet is neighbour discovery or multicast listener discovery, on the link and
/// nowhere else: what the kernel itself must send for IPv6 to work. Checked as the receiver checks
/// it: hop limit 255 and types 133 to 137 (RFC 4861 §4, §6.1), or a router alert, hop limit 1 and
/// types 130 to 132 and 143 (RFC 2710 §3, RFC 3810 §5).
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
/// [`Reason::Unparsable`] for what cannot be judged by its first headers.
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
mod tests {
    use super::{Packet, Plain, destination, is_neighbour_talk, is_plain_tcp, source_is_local};
    use crate::decide::Destination;
    use crate::verdict::Reason;
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::vec::Vec;

    struct Bytes<'a>(&'a [u8]);

    impl Packet for Bytes<'_> {
        fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
            let at = offset as usize;
            self.0.get(at..at + N)?.try_into().ok()
        }
    }

    /// What the first words say, where there are as many.
    fn plain(packet: &[u8]) -> Option<Plain> {
        fn words<const N: usize>(packet: &[u8]) -> Option<[u32; N]> {
            let mut words = [0; N];
            for (word, bytes) in words.iter_mut().zip(packet.get(..N * 4)?.chunks(4)) {
                *word = u32::from_ne_bytes(bytes.try_into().unwrap());
            }
            Some(words)
        }
        let v4 = words(packet).as_ref().and_then(Plain::v4);
        v4.or_else(|| words(packet).as_ref().and_then(Plain::v6))
    }

    fn v4(version_ihl: u8, fragment: u16, proto: u8, transport: &[u8]) -> Vec<u8> {
        let mut p = std::vec![0; 20];
        p[0] = version_ihl;
        p[6..8].copy_from_slice(&fragment.to_be_bytes());
        p[9] = proto;
        p[16..20].copy_from_slice(&Ipv4Addr::new(203, 0, 113, 10).octets());
        p.resize(usize::from(version_ihl & 15) * 4, 0);
        p.extend_from_slice(transport);
        p
    }

    fn v6(next: u8, transport: &[u8]) -> Vec<u8> {
        let mut p = std::vec![0; 40];
        p[0] = 0x60;
        p[6] = next;
        p[24..40].copy_from_slice(&"2001:db8::10".parse::<Ipv6Addr>().unwrap().octets());
        p.extend_from_slice(transport);
        p
    }

    const PORTS: [u8; 8] = [0x30, 0x39, 0x00, 0x50, 0, 0, 0, 0];

    #[test]
    fn good_packets_give_their_destination() {
        let to = |addr: &str, port, proto| {
            Ok(Destination {
                addr: addr.parse::<IpAddr>().unwrap().into(),
                port,
                proto,
            })
        };
        for (packet, want) in [
            (v4(0x45, 0, 6, &PORTS), to("203.0.113.10", 80, 6)),
            (v4(0x45, 0x4000, 17, &PORTS), to("203.0.113.10", 80, 17)),
            (v4(0x45, 0, 1, &[8, 0]), to("203.0.113.10", 0, 1)),
            (v6(6, &PORTS), to("2001:db8::10", 80, 6)),
            (v6(58, &[128, 0, 0, 0]), to("2001:db8::10", 0, 58)),
        ] {
            assert_eq!(destination(&Bytes(&packet)), want);
            let listable = want.ok().filter(|to| to.port != 0);
            assert_eq!(plain(&packet).map(|p| p.to), listable, "{packet:?}");
        }
    }

    #[test]
    fn what_hides_its_transport_header_is_refused() {
        for packet in [
            Vec::new(),
            std::vec![0x50; 60],
            v4(0x44, 0, 6, &PORTS),
            v4(0x46, 0, 6, &PORTS),
            v4(0x4f, 0, 17, &PORTS),
            v4(0x45, 0x2000, 6, &PORTS),
            v4(0x45, 0x0001, 6, &PORTS),
            v4(0x45, 0, 6, &PORTS[..3]),
            v4(0x45, 0, 6, &[])[..19].to_vec(),
            v6(44, &PORTS),
            v6(0, &PORTS),
            v6(60, &PORTS),
            v6(17, &PORTS[..2]),
            v6(6, &[])[..39].to_vec(),
        ] {
            assert_eq!(
                destination(&Bytes(&packet)),
                Err(Reason::Unparsable),
                "{packet:?}"
            );
            assert_eq!(plain(&packet), None, "{packet:?}");
        }
    }

    #[test]
    fn a_stream_is_plain_tcp_and_nothing_in_front() {
        for (packet, want) in [
            (v4(0x45, 0, 6, &PORTS), true),
            (v4(0x46, 0, 6, &PORTS), false),
            (v4(0x45, 0, 4, &PORTS), false),
            (v4(0x45, 0, 17, &PORTS), false),
            (v4(0x45, 0, 6, &[])[..9].to_vec(), false),
            (v6(6, &PORTS), true),
            (v6(43, &PORTS), false),
            (v6(41, &PORTS), false),
            (std::vec![0x50; 60], false),
        ] {
            assert_eq!(is_plain_tcp(&Bytes(&packet)), want, "{packet:?}");
        }
    }

    #[test]
    fn a_packet_on_loopback_names_its_true_sender() {
        let from = |from: &str, to: &str| {
            let octets = |s: &str| match s.parse().unwrap() {
                IpAddr::V4(a) => a.octets().to_vec(),
                IpAddr::V6(a) => a.octets().to_vec(),
            };
            let (from, to) = (octets(from), octets(to));
            let (mut packet, at) = if from.len() == 4 {
                (v4(0x45, 0, 17, &PORTS), 12)
            } else {
                (v6(17, &PORTS), 8)
            };
            packet[at..at + from.len()].copy_from_slice(&from);
            packet[at + from.len()..at + 2 * from.len()].copy_from_slice(&to);
            let said = source_is_local(&Bytes(&packet));
            assert_eq!(plain(&packet).unwrap().source_is_local(), said);
            said
        };
        assert!(from("127.0.0.1", "127.0.0.9"));
        assert!(from("192.0.2.1", "192.0.2.1"));
        assert!(from("::1", "::1"));
        assert!(from("2001:db8::1", "2001:db8::1"));
        assert!(!from("198.51.100.99", "127.0.0.1"));
        assert!(!from("2001:db8::99", "::1"));
        assert!(!from("192.0.2.1", "192.0.2.2"));
        assert!(!from("0.0.0.0", "0.0.0.0"));
        assert!(!from("::", "::"));
    }

    #[test]
    fn neighbour_talk_stays_on_the_link() {
        let packet = |next: u8, hops: u8, to: &str, body: &[u8]| {
            let mut p = v6(next, body);
            p[7] = hops;
            p[24..40].copy_from_slice(&to.parse::<Ipv6Addr>().unwrap().octets());
            p
        };
        let report = [58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0];
        for (p, want) in [
            (packet(58, 255, "ff02::1:ff00:1", &[135, 0, 0, 0]), true),
            (packet(58, 255, "fe80::1", &[136, 0, 0, 0]), true),
            (packet(0, 1, "ff02::16", &report), true),
            (packet(58, 255, "2001:db8::1", &[135, 0, 0, 0]), false),
            (packet(58, 64, "ff02::1", &[135, 0, 0, 0]), false),
            (packet(58, 255, "ff02::1", &[128, 0, 0, 0]), false),
            (packet(58, 255, "ff05::1", &[135, 0, 0, 0]), false),
            (packet(0, 1, "2001:db8::1", &report), false),
            (packet(0, 64, "ff02::16", &report), false),
            (
                packet(0, 1, "ff02::16", &[17, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0]),
                false,
            ),
            (packet(17, 255, "ff02::1", &[135, 0, 0, 0]), false),
            (packet(58, 255, "ff02::1", &[]), false),
        ] {
            assert_eq!(is_neighbour_talk(&Bytes(&p)), want, "{p:?}");
        }
    }
}
