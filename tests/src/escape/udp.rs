//! Datagrams: every call that sends one, and every option that can lead it elsewhere.

use super::sock::{Sock, Step, Stop, device_index};
use super::tcp::{PADDING, away_from_loopback, be_transparent, route4, set_route};
use super::{Aim, DEVICE, PAYLOAD};
use libc::{IPPROTO_UDP, SOCK_DGRAM};
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

/// `UDP_SEGMENT` of include/uapi/linux/udp.h.
const UDP_SEGMENT: libc::c_int = 103;
/// `IPPROTO_UDPLITE`.
const UDP_LITE: libc::c_int = 136;

fn udp(aim: &Aim) -> Step<Sock> {
    Sock::of(aim.to.ip(), SOCK_DGRAM, 0)
}

pub(super) fn send_to(aim: &Aim) -> Step {
    udp(aim)?.send_to(PAYLOAD, aim.to, 0)
}

pub(super) fn connect(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    sock.connect(aim.to)?;
    sock.send(PAYLOAD)
}

pub(super) fn send_msg(aim: &Aim) -> Step {
    udp(aim)?.send_msg(PAYLOAD, aim.to, None)
}

/// One call, the first datagram to a listed destination.
pub(super) fn send_many(aim: &Aim) -> Step {
    let sent = udp(aim)?.send_many(PAYLOAD, &[aim.listed, aim.to])?;
    if sent == 2 {
        return Ok(());
    }
    Err(Stop {
        call: format!("sendmmsg: {sent} of 2"),
        errno: 0,
    })
}

pub(super) fn mapped_send_to(aim: &Aim) -> Step {
    Sock::open(libc::AF_INET6, SOCK_DGRAM, 0)?.send_to(PAYLOAD, Aim::mapped(aim.to), 0)
}

pub(super) fn mapped_connect(aim: &Aim) -> Step {
    let sock = Sock::open(libc::AF_INET6, SOCK_DGRAM, 0)?;
    sock.connect(Aim::mapped(aim.to))?;
    sock.send(PAYLOAD)
}

pub(super) fn other_address(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    sock.connect(aim.listed)?;
    sock.send_to(PAYLOAD, aim.to, 0)
}

pub(super) fn reconnect(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    sock.connect(aim.listed)?;
    sock.send(PAYLOAD)?;
    sock.disconnect()?;
    sock.connect(aim.to)?;
    sock.send(PAYLOAD)
}

/// A resolver's way to learn a source address, then a send without an address of its own.
pub(super) fn port_zero(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    sock.connect(SocketAddr::new(aim.to.ip(), 0))?;
    sock.send(PAYLOAD)
}

/// The same with the ports of Go and musl, where something may listen.
pub(super) fn sorting_ports(aim: &Aim) -> Step {
    let mut last = Ok(());
    for port in [9, 65_535] {
        let sock = udp(aim)?;
        sock.connect(SocketAddr::new(aim.to.ip(), port))?;
        last = sock.send(PAYLOAD);
    }
    last
}

/// More bytes than a packet holds, which the kernel sends as fragments.
pub(super) fn fragments(aim: &Aim) -> Step {
    udp(aim)?.send_to(&[b'x'; 9000], aim.to, 0)
}

/// One send, cut into several datagrams by the kernel.
pub(super) fn segments(aim: &Aim) -> Step {
    let size = 100_u16.to_ne_bytes();
    udp(aim)?.send_msg(
        &[b'x'; 1000],
        aim.to,
        Some((IPPROTO_UDP, UDP_SEGMENT, &size)),
    )
}

pub(super) fn source_route(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    set_route(&sock, aim)?;
    sock.send_to(PAYLOAD, aim.listed, 0)
}

pub(super) fn connected_source_route(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    sock.connect(aim.listed)?;
    sock.send(PAYLOAD)?;
    set_route(&sock, aim)?;
    sock.connect(aim.listed)?;
    sock.send(PAYLOAD)
}

/// The route in a control message of one datagram.
pub(super) fn source_route_message(aim: &Aim) -> Step {
    let control = (libc::IPPROTO_IP, libc::IP_RETOPTS, &route4(aim)[..]);
    udp(aim)?.send_msg(PAYLOAD, aim.listed, Some(control))
}

pub(super) fn hop_by_hop(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    sock.set_bytes(libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS, &PADDING)?;
    sock.send_to(PAYLOAD, aim.to, 0)
}

pub(super) fn destination_options_message(aim: &Aim) -> Step {
    let control = (libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &PADDING[..]);
    udp(aim)?.send_msg(PAYLOAD, aim.to, Some(control))
}

pub(super) fn bind_device(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    sock.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    sock.send_to(PAYLOAD, aim.to, 0)
}

pub(super) fn mark(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    sock.set(libc::SOL_SOCKET, libc::SO_MARK, &0x7f_u32)?;
    sock.send_to(PAYLOAD, aim.to, 0)
}

pub(super) fn transparent(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    be_transparent(&sock, aim)?;
    sock.send_to(PAYLOAD, aim.to, 0)
}

pub(super) fn loopback_by_device(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    sock.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    sock.send_to(PAYLOAD, away_from_loopback(aim), 0)
}

/// The device named in a control message of one datagram.
pub(super) fn loopback_by_message(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    let to = away_from_loopback(aim);
    let index = device_index(c"out0").to_ne_bytes();
    if aim.to.is_ipv4() {
        let mut info = [0; 12];
        info[..4].copy_from_slice(&index);
        sock.send_msg(
            PAYLOAD,
            to,
            Some((libc::IPPROTO_IP, libc::IP_PKTINFO, &info)),
        )
    } else {
        let mut info = [0; 20];
        info[16..].copy_from_slice(&index);
        let control = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info[..]);
        sock.send_msg(PAYLOAD, to, Some(control))
    }
}

pub(super) fn broadcast(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    sock.turn_on(libc::SOL_SOCKET, libc::SO_BROADCAST)?;
    sock.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    let port = aim.to.port();
    let everywhere = sock.send_to(PAYLOAD, SocketAddr::from(([255, 255, 255, 255], port)), 0);
    sock.send_to(PAYLOAD, SocketAddr::from(([203, 0, 113, 255], port)), 0)
        .or(everywhere)
}

pub(super) fn multicast(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    let index = device_index(c"out0");
    let port = aim.to.port();
    if aim.to.is_ipv4() {
        sock.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
        return sock.send_to(PAYLOAD, SocketAddr::from(([239, 1, 1, 1], port)), 0);
    }
    let mut last = Ok(());
    for group in ["ff02::1", "ff05::2"] {
        let ip: Ipv6Addr = group.parse().unwrap_or(Ipv6Addr::UNSPECIFIED);
        last = sock.send_to(PAYLOAD, SocketAddrV6::new(ip, port, 0, index).into(), 0);
    }
    last
}

/// The router's own address on the link.
pub(super) fn link_local(aim: &Aim) -> Step {
    let sock = udp(aim)?;
    let port = aim.to.port();
    if aim.to.is_ipv4() {
        return sock.send_to(PAYLOAD, SocketAddr::from(([169, 254, 9, 9], port)), 0);
    }
    let ip: Ipv6Addr = "fe80::fe".parse().unwrap_or(Ipv6Addr::UNSPECIFIED);
    let to = SocketAddrV6::new(ip, port, 0, device_index(c"out0"));
    sock.send_to(PAYLOAD, to.into(), 0)
}

pub(super) fn lite_connect(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, UDP_LITE)?;
    sock.connect(aim.to)?;
    sock.send(PAYLOAD)
}

pub(super) fn lite_send_to(aim: &Aim) -> Step {
    Sock::of(aim.to.ip(), SOCK_DGRAM, UDP_LITE)?.send_to(PAYLOAD, aim.to, 0)
}
