//! Packets with the verdict that each must get.

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

/// The content of the first words, as far as there are any.
fn plain(packet: &[u8]) -> Option<Plain> {
    fn words<const N: usize>(packet: &[u8]) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(packet.get(..N * 4)?.chunks(4)) {
            *word = u32::from_ne_bytes(bytes.try_into().unwrap());
        }
        Some(words)
    }
    let v4 = words(packet).as_ref().and_then(Plain::v4);
    let v6 = || words(packet).as_ref().and_then(Plain::v6);
    let jumbo = || words(packet).as_ref().and_then(Plain::jumbo);
    v4.or_else(v6).or_else(jumbo)
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
fn what_hides_its_transport_header_is_denied() {
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

/// Payload length 0, a hop-by-hop header with these eight bytes, and TCP.
fn jumbo(hop: [u8; 8], payload: u16) -> Vec<u8> {
    let mut p = v6(0, &hop);
    p[4..6].copy_from_slice(&payload.to_be_bytes());
    p.extend_from_slice(&PORTS);
    p
}

#[test]
fn the_kernels_own_jumbo_header_is_looked_behind_and_no_other() {
    let own = [6, 0, 0xc2, 4, 0, 1, 0x86, 0xa0];
    let to = Destination {
        addr: "2001:db8::10".parse::<IpAddr>().unwrap().into(),
        port: 80,
        proto: 6,
    };
    let good = jumbo(own, 0);
    assert_eq!(destination(&Bytes(&good)), Ok(to));
    assert!(is_plain_tcp(&Bytes(&good)));
    assert_eq!(
        plain(&good).map(|p| (p.to, p.from_port)),
        Some((to, 0x3039))
    );
    let with = |at: usize, byte: u8| {
        let mut hop = own;
        hop[at] = byte;
        jumbo(hop, 0)
    };
    for packet in [
        // It has a length of its own, so it is not from the kernel's segmentation.
        jumbo(own, 16),
        // Another header behind it: routing, hop-by-hop, UDP.
        with(0, 43),
        with(0, 0),
        with(0, 17),
        // A header longer than eight bytes, another option, and another length of the option.
        with(1, 1),
        with(2, 5),
        with(2, 0),
        with(3, 0),
        // Not above 65 535 (RFC 2675 section 3).
        jumbo([6, 0, 0xc2, 4, 0, 0, 0xff, 0xff], 0),
        good[..50].to_vec(),
        good[..44].to_vec(),
        good[..40].to_vec(),
    ] {
        assert_eq!(
            destination(&Bytes(&packet)),
            Err(Reason::Unparsable),
            "{packet:?}"
        );
        assert_eq!(plain(&packet), None, "{packet:?}");
        // The ports of a stream are not read.
        assert_eq!(
            is_plain_tcp(&Bytes(&packet)),
            packet.len() == 50,
            "{packet:?}"
        );
    }
}

/// Kernels that segment without the header leave the length 0, with TCP directly after it.
#[test]
fn a_length_of_zero_says_nothing() {
    let mut packet = v6(6, &PORTS);
    packet[4..6].copy_from_slice(&[0, 0]);
    assert!(is_plain_tcp(&Bytes(&packet)));
    assert_eq!(destination(&Bytes(&packet)).unwrap().port, 80);
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
