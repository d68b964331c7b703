//! The packet parser of the egress backstop: from a packet that starts at its IP header to the
//! destination that is judged. Whatever could hide the transport header (a fragment, an IPv6
//! extension header, a truncated packet) is refused rather than followed.

use crate::abi::proto;
use crate::addr::Addr;
use crate::decide::Destination;
use crate::verdict::Reason;

/// Bytes of a packet by offset; `None` past its end.
pub trait Packet {
    /// `N` bytes from `offset`.
    fn load<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

/// Flags and offset of an IPv4 header without "don't fragment" and the reserved bit: anything
/// else set means a fragment (RFC 791 §3.1).
const V4_FRAGMENT_MASK: u16 = 0x3fff;

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
    let words = first & 0x0f;
    let fragment = u16::from_be_bytes([header[6], header[7]]) & V4_FRAGMENT_MASK;
    if words < 5 || fragment != 0 {
        return Err(Reason::Unparsable);
    }
    let be = u32::from_ne_bytes([header[16], header[17], header[18], header[19]]);
    transport(
        packet,
        header[9],
        u32::from(words) * 4,
        Addr::from_v4_be(be),
    )
}

#[inline(always)]
fn v6<P: Packet>(packet: &P) -> Result<Destination, Reason> {
    let [_, _, _, _, _, _, next, _] = packet.load::<8>(0).ok_or(Reason::Unparsable)?;
    let d: [u8; 16] = packet.load(24).ok_or(Reason::Unparsable)?;
    let addr = Addr::from_v6_be([
        u32::from_ne_bytes([d[0], d[1], d[2], d[3]]),
        u32::from_ne_bytes([d[4], d[5], d[6], d[7]]),
        u32::from_ne_bytes([d[8], d[9], d[10], d[11]]),
        u32::from_ne_bytes([d[12], d[13], d[14], d[15]]),
    ]);
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
    use super::{Packet, destination};
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
            (v4(0x4f, 0, 6, &PORTS), to("203.0.113.10", 80, 6)),
            (v4(0x45, 0, 1, &[8, 0]), to("203.0.113.10", 0, 1)),
            (v6(6, &PORTS), to("2001:db8::10", 80, 6)),
            (v6(58, &[128]), to("2001:db8::10", 0, 58)),
        ] {
            assert_eq!(destination(&Bytes(&packet)), want);
        }
    }

    #[test]
    fn what_hides_its_transport_header_is_refused() {
        for packet in [
            Vec::new(),
            std::vec![0x50; 60],
            v4(0x44, 0, 6, &PORTS),
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
        }
    }
}
