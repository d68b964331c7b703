//! Claimed sources: a datagram names the target as its sender, so that a server of the same node treats the target as a
//! peer that wrote first, and answers it.
//!
//! Owns the ways to claim an address and the ways by which such a datagram comes back to a socket
//! of the node without the loopback device: broadcast, groups, and another workload.

use super::forged::SERVER_PORT;
use super::sock::{Sock, Step, Stop, device_index};
use super::tcp::be_transparent;
use super::{Aim, DEVICE, PAYLOAD};
use libc::{SOCK_DGRAM, SOCK_STREAM, c_int};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::{Duration, Instant};

/// The port on which [`listed_groups`] are listed.
pub const GROUP_PORT: u16 = 10;
/// The port on which networks are listed that hold the target's subnet, its broadcast address and
/// every group.
pub const NETWORK_PORT: u16 = 11;

/// The broadcast address of the node's link.
const BROADCAST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 255);
/// `TCP_REPAIR` of include/uapi/linux/tcp.h.
const TCP_REPAIR: c_int = 19;

/// Broadcast and group addresses that the suite's rules list one by one. Every host is a member of
/// these groups, so no membership report leaves.
pub fn listed_groups() -> [IpAddr; 3] {
    [
        BROADCAST.into(),
        Ipv4Addr::new(224, 0, 0, 1).into(),
        Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into(),
    ]
}

/// Makes a socket that claims a source address.
type Claim = fn(&Aim) -> Step<Sock>;

/// A datagram socket that is bound to the target's address.
fn bound_to_target(aim: &Aim) -> Step<Sock> {
    let sock = sharing(aim)?;
    be_transparent(&sock, aim)?;
    sock.bind(aim.to)?;
    Ok(sock)
}

/// A datagram socket whose address another socket may share, because a paused probe may have it.
fn sharing(aim: &Aim) -> Step<Sock> {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    sock.turn_on(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    Ok(sock)
}

/// The same without an option: `ip_nonlocal_bind` is set.
fn bound_by_sysctl(aim: &Aim) -> Step<Sock> {
    let sock = sharing(aim)?;
    sock.bind(aim.to)?;
    Ok(sock)
}

/// A datagram socket that may claim any address.
fn unbound(aim: &Aim) -> Step<Sock> {
    let sock = sharing(aim)?;
    be_transparent(&sock, aim)?;
    sock.bind(SocketAddr::new(aim.unspecified(), aim.to.port()))?;
    Ok(sock)
}

/// Binds by an option of the other family's level, which works on IPv6 sockets too.
fn bound_by_ipv4_option(aim: &Aim) -> Step<Sock> {
    let sock = sharing(aim)?;
    sock.turn_on(libc::IPPROTO_IP, libc::IP_FREEBIND)?;
    sock.bind(aim.to)?;
    Ok(sock)
}

/// Sends with the target's address as the source. A control message names it if the socket is not bound to it.
fn send_claimed(sock: &Sock, aim: &Aim, to: SocketAddr, by_message: bool) -> Step {
    if !by_message {
        return sock.send_to(PAYLOAD, to, 0);
    }
    let index = device_index(c"out0").to_ne_bytes();
    match aim.to.ip() {
        IpAddr::V4(ip) => {
            let mut info = [0; 12];
            info[..4].copy_from_slice(&index);
            info[4..8].copy_from_slice(&ip.octets());
            sock.send_msg(
                PAYLOAD,
                to,
                Some((libc::IPPROTO_IP, libc::IP_PKTINFO, &info)),
            )
        }
        IpAddr::V6(ip) => {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&ip.octets());
            info[16..].copy_from_slice(&index);
            let control = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info[..]);
            sock.send_msg(PAYLOAD, to, Some(control))
        }
    }
}

/// A group of the target's family, on the link to the outside.
fn group(aim: &Aim, port: u16) -> SocketAddr {
    if aim.to.is_ipv4() {
        return SocketAddr::from(([224, 0, 0, 1], port));
    }
    let ip = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    SocketAddrV6::new(ip, port, 0, device_index(c"out0")).into()
}

/// A server receives what the claimed sender sent to `to`, and answers.
fn looped(aim: &Aim, to: SocketAddr, claim: Claim, by_message: bool) -> Step {
    let server = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    server.turn_on(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    server.bind(SocketAddr::new(aim.unspecified(), to.port()))?;
    let forged = send_looped(aim, to, claim, by_message);
    // The server tries to answer whether or not it received anything.
    let read = hears(&server, aim);
    let answer = server.send_to(PAYLOAD, aim.to, 0);
    forged.and(read).and(answer)
}

fn send_looped(aim: &Aim, to: SocketAddr, claim: Claim, by_message: bool) -> Step {
    let client = claim(aim)?;
    client.turn_on(libc::SOL_SOCKET, libc::SO_BROADCAST)?;
    client.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    send_claimed(&client, aim, to, by_message)
}

/// Reads until a datagram comes whose sender seems to be the target.
fn hears(server: &Sock, aim: &Aim) -> Step {
    let start = Instant::now();
    loop {
        match server.sender(0) {
            Ok(peer) if peer.ip() == aim.to.ip() => return Ok(()),
            Err(stop) if start.elapsed() > Duration::from_millis(300) => return Err(stop),
            _ => {}
        }
    }
}

pub(super) fn broadcast(aim: &Aim) -> Step {
    let to = SocketAddr::new(BROADCAST.into(), GROUP_PORT);
    looped(aim, to, bound_to_target, false)
}

pub(super) fn multicast(aim: &Aim) -> Step {
    looped(aim, group(aim, GROUP_PORT), bound_to_target, false)
}

pub(super) fn multicast_by_message(aim: &Aim) -> Step {
    looped(aim, group(aim, GROUP_PORT), unbound, true)
}

pub(super) fn multicast_by_ipv4_option(aim: &Aim) -> Step {
    looped(aim, group(aim, GROUP_PORT), bound_by_ipv4_option, false)
}

pub(super) fn multicast_by_sysctl(aim: &Aim) -> Step {
    let unforced = looped(aim, group(aim, GROUP_PORT), bound_by_sysctl, false);
    let by_message = |aim: &Aim| {
        let sock = sharing(aim)?;
        sock.bind(SocketAddr::new(aim.unspecified(), aim.to.port()))?;
        Ok(sock)
    };
    looped(aim, group(aim, GROUP_PORT), by_message, true).or(unforced)
}

/// A connection to a listed host by a socket that is bound to the target's address, so that the host answers the
/// handshake there.
pub(super) fn stream_by_sysctl(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    sock.bind(aim.to)?;
    sock.connect(aim.listed)
}

/// The socket took the target's address before the attach.
pub(super) fn older_multicast(aim: &Aim) -> Step {
    let client = bound_to_target(aim)?;
    client.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    super::staged::pause();
    let to = group(aim, GROUP_PORT);
    let server = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    server.turn_on(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    server.bind(SocketAddr::new(aim.unspecified(), to.port()))?;
    let forged = client.send_to(PAYLOAD, to, 0);
    let read = hears(&server, aim);
    let answer = server.send_to(PAYLOAD, aim.to, 0);
    forged.and(read).and(answer)
}

/// One of two workloads: it claims to be the target and writes to the other one in another network namespace.
pub(super) fn write_as_target(aim: &Aim) -> Step {
    write_to_server(aim, &bound_to_target(aim)?, false)
}

/// The same by a control message.
pub(super) fn write_as_target_by_message(aim: &Aim) -> Step {
    write_to_server(aim, &unbound(aim)?, true)
}

/// The same without an option: `ip_nonlocal_bind` is set.
pub(super) fn write_as_target_by_sysctl(aim: &Aim) -> Step {
    write_to_server(aim, &bound_by_sysctl(aim)?, false)
}

fn write_to_server(aim: &Aim, sock: &Sock, by_message: bool) -> Step {
    let to = SocketAddr::new(aim.own, SERVER_PORT);
    let start = Instant::now();
    let mut last = Ok(());
    // It repeats until the server exists and has read a datagram.
    while start.elapsed() < Duration::from_secs(1) {
        last = if by_message {
            claimed_anywhere(sock, aim, to)
        } else {
            sock.send_to(PAYLOAD, to, 0)
        };
        std::thread::sleep(Duration::from_millis(10));
    }
    last
}

/// By any device that leads there.
fn claimed_anywhere(sock: &Sock, aim: &Aim, to: SocketAddr) -> Step {
    match aim.to.ip() {
        IpAddr::V4(ip) => {
            let mut info = [0; 12];
            info[4..8].copy_from_slice(&ip.octets());
            sock.send_msg(
                PAYLOAD,
                to,
                Some((libc::IPPROTO_IP, libc::IP_PKTINFO, &info)),
            )
        }
        IpAddr::V6(ip) => {
            let mut info = [0; 20];
            info[..16].copy_from_slice(&ip.octets());
            let control = (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info[..]);
            sock.send_msg(PAYLOAD, to, Some(control))
        }
    }
}

/// Broadcast and group addresses in networks that are each listed for one host.
pub(super) fn broadcast_in_network(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    sock.turn_on(libc::SOL_SOCKET, libc::SO_BROADCAST)?;
    sock.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    let all = SocketAddr::from(([255, 255, 255, 255], NETWORK_PORT));
    let subnet = SocketAddr::new(BROADCAST.into(), NETWORK_PORT);
    let results = [
        sock.send_to(PAYLOAD, all, 0),
        sock.send_to(PAYLOAD, subnet, 0),
        sock.connect(subnet).and_then(|()| sock.send(PAYLOAD)),
    ];
    results.into_iter().find(Result::is_ok).unwrap_or(Err(Stop {
        call: "sendto".to_owned(),
        errno: libc::EPERM,
    }))
}

/// The subnet's broadcast address in such a network, which a route over the loopback device takes for one host: first
/// there, then on the link.
pub(super) fn broadcast_after_loopback(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    sock.turn_on(libc::SOL_SOCKET, libc::SO_BROADCAST)?;
    let subnet = SocketAddr::new(BROADCAST.into(), NETWORK_PORT);
    // `in_pktinfo`: device, source, and an address that the kernel does not read.
    let mut info = [0; 12];
    info[..4].copy_from_slice(&device_index(c"lo").to_ne_bytes());
    info[4..8].copy_from_slice(&Ipv4Addr::LOCALHOST.octets());
    let by_loopback = Some((libc::IPPROTO_IP, libc::IP_PKTINFO, &info[..]));
    sock.send_msg(PAYLOAD, subnet, by_loopback)?;
    sock.send_to(PAYLOAD, subnet, 0)
}

/// A group in such a network.
pub(super) fn multicast_in_network(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    sock.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    sock.send_to(PAYLOAD, group(aim, NETWORK_PORT), 0)
}

/// To a group that is listed by its address.
pub(super) fn multicast_listed(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    sock.set_bytes(libc::SOL_SOCKET, libc::SO_BINDTODEVICE, DEVICE.as_bytes())?;
    sock.send_to(PAYLOAD, group(aim, GROUP_PORT), 0)
}

/// To a broadcast address that is listed.
pub(super) fn broadcast_listed(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    sock.turn_on(libc::SOL_SOCKET, libc::SO_BROADCAST)?;
    sock.send_to(PAYLOAD, SocketAddr::new(BROADCAST.into(), GROUP_PORT), 0)
}

/// A connection in repair mode claims to exist between a closed port of this node and the target:
/// the kernel resets it towards the target.
pub(super) fn repaired_reset(aim: &Aim) -> Step {
    let client = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    be_transparent(&client, aim)?;
    client.bind(aim.to)?;
    client.set::<c_int>(libc::IPPROTO_TCP, TCP_REPAIR, &1)?;
    // A packet with the source 127.0.0.1 does not leave by another device.
    let closed = if aim.to.is_ipv4() {
        aim.own
    } else {
        aim.loopback()
    };
    client.connect(SocketAddr::new(closed, SERVER_PORT + 1))?;
    client.set::<c_int>(libc::IPPROTO_TCP, TCP_REPAIR, &0)?;
    client.send(PAYLOAD)
}

/// The option alone.
pub(super) fn repair(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    sock.set::<c_int>(libc::IPPROTO_TCP, TCP_REPAIR, &1)
}

/// Options that must still work: a value longer than a page, of which the kernel reads a number, and options that are
/// turned off.
pub(super) fn other_options(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    let mut long = [0; 8192];
    long[..4].copy_from_slice(&65_536_u32.to_ne_bytes());
    sock.set_bytes(libc::SOL_SOCKET, libc::SO_RCVBUF, &long)?;
    sock.set::<c_int>(libc::IPPROTO_IP, libc::IP_FREEBIND, &0)?;
    sock.set_bytes(libc::IPPROTO_IP, libc::IP_TRANSPARENT, &[0])?;
    // Every datagram socket of Go sets this.
    sock.turn_on(libc::SOL_SOCKET, libc::SO_BROADCAST)?;
    let server = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    server.bind(SocketAddr::new(aim.own, 0))?;
    let own_range = SocketAddr::new(aim.own, server.port()?);
    for to in [aim.listed, own_range, aim.listed] {
        sock.send_to(PAYLOAD, to, 0)?;
        sock.connect(to)?;
        sock.send(PAYLOAD)?;
        sock.disconnect()?;
    }
    Ok(())
}

/// A datagram on the loopback device that names a resolver of the agent as its sender. The socket may do so because it
/// has another address with the same port.
pub(super) fn resolver(aim: &Aim) -> Step {
    let resolver: SocketAddr = RESOLVER.parse().map_err(|_| Stop {
        call: "parse".to_owned(),
        errno: libc::EINVAL,
    })?;
    let asker = Sock::of(resolver.ip(), SOCK_DGRAM, 0)?;
    asker.bind(SocketAddr::new(aim.loopback(), 0))?;
    let to = SocketAddr::new(aim.loopback(), asker.port()?);
    let impostor = Sock::of(resolver.ip(), SOCK_DGRAM, 0)?;
    impostor.bind(SocketAddr::from(([127, 0, 0, 99], resolver.port())))?;
    // The first datagram has its own source, because the gate remembers what passes.
    impostor.send_to(PAYLOAD, to, 0)?;
    let as_itself = asker.sender(0)?;
    let as_resolver = Aim {
        to: resolver,
        ..aim.clone()
    };
    claimed_anywhere(&impostor, &as_resolver, to)?;
    let seen = asker.sender(0)?;
    if seen == resolver && as_itself != resolver {
        return Ok(());
    }
    Err(Stop {
        call: format!("the asker sees {seen}"),
        errno: 0,
    })
}

/// A resolver that the suite's agent has, on the loopback device.
pub const RESOLVER: &str = "127.0.0.53:53";
