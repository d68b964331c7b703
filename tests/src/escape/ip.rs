//! Other protocols over IP: ICMP, raw packets, SCTP, DCCP, tunnels, and group membership.

use super::raw::Raw;
use super::sock::{Sock, Step, device_index};
use super::{Aim, PAYLOAD};
use libc::{SOCK_DGRAM, SOCK_RAW, SOCK_SEQPACKET, SOCK_STREAM, c_int};
use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};

fn icmp(aim: &Aim) -> c_int {
    if aim.to.is_ipv4() {
        libc::IPPROTO_ICMP
    } else {
        libc::IPPROTO_ICMPV6
    }
}

/// An echo request; ping sockets fill in the rest.
fn echo(aim: &Aim) -> Vec<u8> {
    let kind = if aim.to.is_ipv4() { 8 } else { 128 };
    let mut packet = vec![kind, 0, 0, 0, 0, 1, 0, 1];
    packet.extend_from_slice(PAYLOAD);
    if aim.to.is_ipv4() {
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    packet
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

pub(super) fn ping_send_to(aim: &Aim) -> Step {
    Sock::of(aim.to.ip(), SOCK_DGRAM, icmp(aim))?.send_to(&echo(aim), aim.to, 0)
}

pub(super) fn ping_connect(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, icmp(aim))?;
    sock.connect(aim.to)?;
    sock.send(&echo(aim))
}

/// Raw sockets have no port, and IPv6 rejects one.
fn raw(aim: &Aim, protocol: c_int, packet: &[u8]) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_RAW, protocol)?;
    let mut to = aim.to;
    to.set_port(0);
    sock.send_to(packet, to, 0)
}

pub(super) fn raw_icmp(aim: &Aim) -> Step {
    raw(aim, icmp(aim), &echo(aim))
}

/// A neighbour advertisement by hand, to every host of the link, by a socket that was made before the attach.
pub(super) fn older_neighbour_talk(aim: &Aim) -> Step {
    const ADVERTISEMENT: u8 = 136;
    let sock = Sock::of(aim.to.ip(), SOCK_RAW, icmp(aim))?;
    sock.set::<c_int>(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, &255)?;
    super::staged::pause();
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(PAYLOAD);
    let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let to = SocketAddrV6::new(all, 0, 0, device_index(c"out0"));
    sock.send_to(&message, to.into(), 0)
}

pub(super) fn raw_connect(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_RAW, icmp(aim))?;
    let mut to = aim.to;
    to.set_port(0);
    sock.connect(to)?;
    sock.send(&echo(aim))
}

/// A UDP or TCP header by hand: source port, target port, and the rest by length.
fn header(aim: &Aim, length: usize) -> Vec<u8> {
    let mut packet = vec![0x30, 0x39];
    packet.extend_from_slice(&aim.to.port().to_be_bytes());
    packet.resize(length, 0);
    packet
}

pub(super) fn raw_udp(aim: &Aim) -> Step {
    raw(aim, libc::IPPROTO_UDP, &header(aim, 8))
}

pub(super) fn raw_tcp(aim: &Aim) -> Step {
    let mut syn = header(aim, 20);
    (syn[12], syn[13]) = (0x50, 2);
    raw(aim, libc::IPPROTO_TCP, &syn)
}

/// The whole packet by hand, its IP header included.
pub(super) fn own_header(aim: &Aim) -> Step {
    let payload = header(aim, 8);
    let mut packet = match (aim.own, aim.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut ip = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0];
            ip.extend_from_slice(&from.octets());
            ip.extend_from_slice(&to.octets());
            ip
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut ip = vec![0x60, 0, 0, 0, 0, 8, 17, 64];
            ip.extend_from_slice(&from.octets());
            ip.extend_from_slice(&to.octets());
            ip
        }
        _ => Vec::new(),
    };
    packet.extend_from_slice(&payload);
    raw(aim, libc::IPPROTO_RAW, &packet)
}

/// A first fragment with a later one to come (`MF`), by hand.
pub(super) fn own_fragment(aim: &Aim) -> Step {
    let IpAddr::V4(to) = aim.to.ip() else {
        // A fragment header before UDP (RFC 8200 §4.5).
        let mut fragment = vec![17, 0, 0, 1, 0, 0, 0, 1];
        fragment.extend_from_slice(&header(aim, 8));
        return raw(aim, 44, &fragment);
    };
    let mut packet = vec![0x45, 0, 0, 28, 0, 1, 0x20, 0, 64, 17, 0, 0, 0, 0, 0, 0];
    packet.extend_from_slice(&to.octets());
    packet.extend_from_slice(&header(aim, 8));
    raw(aim, libc::IPPROTO_RAW, &packet)
}

pub(super) fn ip_in_ip(aim: &Aim) -> Step {
    let protocol = if aim.to.is_ipv4() { 4 } else { 41 };
    raw(aim, protocol, PAYLOAD)
}

pub(super) fn gre(aim: &Aim) -> Step {
    raw(aim, libc::IPPROTO_GRE, &[0, 0, 8, 0, 1, 2, 3, 4])
}

/// A number that no protocol has (RFC 3692).
pub(super) fn unknown_protocol(aim: &Aim) -> Step {
    raw(aim, 253, PAYLOAD)
}

fn sctp(aim: &Aim, kind: c_int) -> Step {
    let sock = Sock::of(aim.to.ip(), kind, libc::IPPROTO_SCTP)?;
    sock.connect(aim.to)?;
    sock.send(PAYLOAD)
}

pub(super) fn sctp_stream(aim: &Aim) -> Step {
    sctp(aim, SOCK_STREAM)
}

pub(super) fn sctp_many(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_SEQPACKET, libc::IPPROTO_SCTP)?;
    sock.send_to(PAYLOAD, aim.to, libc::MSG_DONTWAIT)
}

pub(super) fn dccp(aim: &Aim) -> Step {
    const SOCK_DCCP: c_int = 6;
    let sock = Sock::of(aim.to.ip(), SOCK_DCCP, libc::IPPROTO_DCCP)?;
    // DCCP_SOCKOPT_SERVICE: any service.
    sock.set(libc::SOL_DCCP, libc::DCCP_SOCKOPT_SERVICE, &1_u32)?;
    sock.connect(aim.to)
}

/// `struct sockaddr_l2tpip` of include/uapi/linux/l2tp.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tunnel4 {
    family: u16,
    unused: u16,
    addr: [u8; 4],
    connection: u32,
    pad: [u8; 4],
}

/// `struct sockaddr_l2tpip6`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Tunnel6 {
    family: u16,
    unused: u16,
    flow: u32,
    addr: [u8; 16],
    scope: u32,
    connection: u32,
}

fn tunnel_end(ip: IpAddr, connection: u32) -> Raw {
    match ip {
        IpAddr::V4(ip) => Raw::of(&Tunnel4 {
            family: libc::AF_INET as u16,
            unused: 0,
            addr: ip.octets(),
            connection,
            pad: [0; 4],
        }),
        IpAddr::V6(ip) => Raw::of(&Tunnel6 {
            family: libc::AF_INET6 as u16,
            unused: 0,
            flow: 0,
            addr: ip.octets(),
            scope: 0,
            connection,
        }),
    }
}

/// L2TP over IP: a datagram socket of its own protocol, which must be bound first.
pub(super) fn l2tp(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 115)?;
    sock.bind_raw(&tunnel_end(aim.own, 1))?;
    sock.connect_raw(&tunnel_end(aim.to.ip(), 2))?;
    sock.send(PAYLOAD)
}
