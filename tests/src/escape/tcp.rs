//! Streams: every call that can begin a connection, and every option that can lead it elsewhere.

use super::sock::{Sock, Step};
use super::{Aim, DEVICE, PAYLOAD};
use libc::{IPPROTO_TCP, SOCK_STREAM};
use std::net::{IpAddr, SocketAddr};

fn tcp(aim: &Aim) -> Step<Sock> {
    Sock::of(aim.to.ip(), SOCK_STREAM, 0)
}

/// Sends bytes over an existing connection.
fn say(sock: &Sock) -> Step {
    sock.send(PAYLOAD)
}

pub(super) fn connect(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    sock.connect(aim.to)?;
    say(&sock)
}

pub(super) fn mapped(aim: &Aim) -> Step {
    let sock = Sock::open(libc::AF_INET6, SOCK_STREAM, 0)?;
    sock.connect(Aim::mapped(aim.to))?;
    say(&sock)
}

pub(super) fn fast_open(aim: &Aim) -> Step {
    tcp(aim)?.send_to(PAYLOAD, aim.to, libc::MSG_FASTOPEN)
}

pub(super) fn fast_open_connect(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    sock.turn_on(IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT)?;
    sock.connect(aim.to)?;
    say(&sock)
}

pub(super) fn reconnect(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    sock.connect(aim.listed)?;
    sock.disconnect()?;
    sock.connect(aim.to)?;
    say(&sock)
}

/// A connection that was accepted is undone and made to the target.
pub(super) fn accepted_then_connect(aim: &Aim) -> Step {
    let (_client, server) = super::forged::local_pair(aim)?;
    server.disconnect()?;
    server.connect(aim.to)?;
    say(&server)
}

pub(super) fn bind_device(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    sock.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    sock.connect(aim.to)?;
    say(&sock)
}

pub(super) fn mark(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    sock.set(libc::SOL_SOCKET, libc::SO_MARK, &0x7f_u32)?;
    sock.connect(aim.to)?;
    say(&sock)
}

pub(super) fn transparent(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    be_transparent(&sock, aim)?;
    sock.connect(aim.to)?;
    say(&sock)
}

/// Lets a socket take an address that is not this node's.
pub(super) fn be_transparent(sock: &Sock, aim: &Aim) -> Step {
    if aim.to.is_ipv4() {
        sock.turn_on(libc::IPPROTO_IP, libc::IP_TRANSPARENT)
    } else {
        // This needs no privilege, and is sufficient.
        sock.turn_on(libc::IPPROTO_IPV6, libc::IPV6_FREEBIND)
    }
}

/// The kernel dials 0.0.0.0 as the socket's own address: here one of the outside.
pub(super) fn unspecified_as_bound(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    be_transparent(&sock, aim)?;
    sock.bind(SocketAddr::new(aim.to.ip(), 0))?;
    super::staged::pause();
    sock.connect(SocketAddr::new(aim.unspecified(), aim.to.port()))?;
    say(&sock)
}

/// To a listed destination, with a route through the target.
pub(super) fn source_route(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    set_route(&sock, aim)?;
    sock.connect(aim.listed)?;
    say(&sock)
}

/// The same, turned on after the handshake.
pub(super) fn late_source_route(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    sock.connect(aim.listed)?;
    set_route(&sock, aim)?;
    say(&sock)
}

/// Sets a route whose next stop is the target and whose end is the socket's destination.
pub(super) fn set_route(sock: &Sock, aim: &Aim) -> Step {
    match aim.to.ip() {
        IpAddr::V4(_) => sock.set_bytes(libc::IPPROTO_IP, libc::IP_OPTIONS, &route4(aim)),
        IpAddr::V6(_) => sock.set_bytes(libc::IPPROTO_IPV6, libc::IPV6_RTHDR, &route6(aim)),
    }
}

/// A loose source route with one stop before the end (RFC 791 §3.1), padded.
pub(super) fn route4(aim: &Aim) -> Vec<u8> {
    let mut option = vec![131, 7, 4];
    if let IpAddr::V4(ip) = aim.to.ip() {
        option.extend_from_slice(&ip.octets());
    }
    option.push(0);
    option
}

/// A segment routing header (RFC 8754 §2) with the target as the next segment.
pub(super) fn route6(aim: &Aim) -> Vec<u8> {
    let mut header = vec![0, 4, 4, 1, 1, 0, 0, 0];
    for ip in [aim.listed.ip(), aim.to.ip()] {
        if let IpAddr::V6(ip) = ip {
            header.extend_from_slice(&ip.octets());
        }
    }
    header
}

/// Options that a receiver skips: an extension header before TCP.
pub(super) fn extension_header(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    sock.set_bytes(libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &PADDING)?;
    sock.connect(aim.to)?;
    say(&sock)
}

/// An options header of eight bytes with nothing but padding (RFC 8200 §4.2).
pub(super) const PADDING: [u8; 8] = [0, 0, 1, 4, 0, 0, 0, 0];

/// 127.0.0.9 or `::1` by the device that leads outside.
pub(super) fn loopback_by_device(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    sock.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    sock.connect(away_from_loopback(aim))
}

/// A loopback address without a listener.
pub(super) fn away_from_loopback(aim: &Aim) -> SocketAddr {
    let ip = if aim.to.is_ipv4() {
        IpAddr::from([127, 0, 0, 9])
    } else {
        aim.loopback()
    };
    SocketAddr::new(ip, aim.to.port())
}

/// A flow that the gate redirects to the proxy, by the device that leads outside.
pub(super) fn proxied_by_device(aim: &Aim) -> Step {
    let sock = tcp(aim)?;
    sock.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    sock.connect(aim.proxied)?;
    say(&sock)
}

/// The proxy's port, dialled without a redirect, in every spelling.
pub(super) fn proxy_port(aim: &Aim) -> Step {
    let mut forms: Vec<IpAddr> = vec![aim.loopback(), aim.unspecified(), aim.own];
    if aim.to.is_ipv4() {
        forms.push(IpAddr::from([127, 0, 0, 2]));
    }
    let mut last = Ok(());
    for ip in forms {
        let plain = SocketAddr::new(ip, aim.proxy_port);
        for to in [plain, Aim::mapped(plain)] {
            let sock = Sock::of(to.ip(), SOCK_STREAM, 0)?;
            last = sock.connect(to).and_then(|()| say(&sock));
            if last.is_ok() {
                return last;
            }
        }
    }
    last
}

pub(super) fn mptcp(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    sock.connect(aim.to)?;
    say(&sock)
}

pub(super) fn mptcp_fast_open(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, libc::IPPROTO_MPTCP)?;
    sock.send_to(PAYLOAD, aim.to, libc::MSG_FASTOPEN)
}

/// `AF_SMC` falls back to a TCP connection that the kernel makes.
pub(super) fn smc(aim: &Aim) -> Step {
    const AF_SMC: libc::c_int = 43;
    let sock = Sock::open(AF_SMC, SOCK_STREAM, i32::from(aim.to.is_ipv6()))?;
    sock.connect(aim.to)?;
    say(&sock)
}
