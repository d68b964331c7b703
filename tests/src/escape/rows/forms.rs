//! The forms of IPv6 that hold an IPv4 address, and the target in each of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

fn inside4(address: SocketAddr) -> [u16; 2] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip,
        // The outside's hosts have the same number in both families.
        IpAddr::V6(ip) => {
            let last = format!("{:x}", ip.segments()[7]).parse().unwrap_or(0);
            Ipv4Addr::new(198, 51, 100, last)
        }
    };
    let [a, b, c, d] = ip.octets();
    [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
}

fn v6(segments: [u16; 8], port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(segments).into(), port)
}

pub(super) fn nat64(a: SocketAddr) -> SocketAddr {
    let [high, low] = inside4(a);
    v6([0x64, 0xff9b, 0, 0, 0, 0, high, low], a.port())
}

pub(super) fn six_to_four(a: SocketAddr) -> SocketAddr {
    let [high, low] = inside4(a);
    v6([0x2002, high, low, 0, 0, 0, 0, 1], a.port())
}

pub(super) fn teredo(a: SocketAddr) -> SocketAddr {
    let [high, low] = inside4(a);
    v6(
        [0x2001, 0, 0x4136, 0xe378, 0x8000, 0x63bf, !high, !low],
        a.port(),
    )
}

pub(super) fn compatible(a: SocketAddr) -> SocketAddr {
    let [high, low] = inside4(a);
    v6([0, 0, 0, 0, 0, 0, high, low], a.port())
}

pub(super) fn loopback_in_6to4(a: SocketAddr) -> SocketAddr {
    v6([0x2002, 0x7f00, 1, 0, 0, 0, 0, 1], a.port())
}

pub(super) fn nothing_in_6to4(a: SocketAddr) -> SocketAddr {
    v6([0x2002, 0, 0, 0, 0, 0, 0, 1], a.port())
}
