//! Forged senders and unrequested answers: ways to make another process send.

use super::sock::{Sock, Step, Stop, check};
use super::staged::pause;
use super::tcp::be_transparent;
use super::{Aim, PAYLOAD};
use libc::{SOCK_DGRAM, SOCK_STREAM, c_int};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// The port of servers that probes make of this node's own address.
pub const SERVER_PORT: u16 = 7001;

/// How long a server waits for the outside to write to it.
const CALLED_WITHIN: Duration = Duration::from_secs(2);

/// Size of a receive queue for several small datagrams, which take 700 bytes or more each.
const SEVERAL: u32 = 8192;

/// Both ends of a connection to a server of this node.
pub(super) fn local_pair(aim: &Aim) -> Step<(Sock, Sock)> {
    let listener = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    listener.bind(SocketAddr::new(aim.own, 0))?;
    listener.listen()?;
    let client = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    client.connect(SocketAddr::new(aim.own, listener.port()?))?;
    // SAFETY: no memory is passed
    let fd = check("accept", unsafe {
        libc::accept(listener.fd(), std::ptr::null_mut(), std::ptr::null_mut()).into()
    })?;
    // SAFETY: the kernel just made it for this process
    Ok((client, Sock::from_fd(unsafe { OwnedFd::from_raw_fd(fd) })))
}

/// A socket that claims to be the target.
fn claiming(aim: &Aim, kind: libc::c_int) -> Step<Sock> {
    let sock = Sock::of(aim.to.ip(), kind, 0)?;
    // Paused probes may have the address too.
    sock.turn_on(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    be_transparent(&sock, aim)?;
    sock.bind(aim.to)?;
    Ok(sock)
}

/// A server of this node whose client claims to be the target, so that the handshake is answered there.
pub(super) fn handshake(aim: &Aim) -> Step {
    connect_to_server(aim, &claiming(aim, SOCK_STREAM)?)
}

/// The same, with the address taken before the attach.
pub(super) fn older_handshake(aim: &Aim) -> Step {
    let client = claiming(aim, SOCK_STREAM)?;
    pause();
    connect_to_server(aim, &client)
}

fn connect_to_server(aim: &Aim, client: &Sock) -> Step {
    let listener = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    listener.turn_on(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    listener.bind(SocketAddr::new(aim.own, SERVER_PORT))?;
    listener.listen()?;
    client.connect(SocketAddr::new(aim.own, SERVER_PORT))
}

/// The same with the proxy as the server.
pub(super) fn handshake_of_the_proxy(aim: &Aim) -> Step {
    claiming(aim, SOCK_STREAM)?.connect(aim.proxied)
}

/// The same, with the address taken before the attach.
pub(super) fn older_handshake_of_the_proxy(aim: &Aim) -> Step {
    let client = claiming(aim, SOCK_STREAM)?;
    pause();
    client.connect(aim.proxied)
}

/// A closed port of this node: the kernel's reset goes to the claimed sender.
pub(super) fn reset(aim: &Aim) -> Step {
    claiming(aim, SOCK_STREAM)?.connect(SocketAddr::new(aim.own, SERVER_PORT + 1))
}

/// The same, with the address taken before the attach.
pub(super) fn older_reset(aim: &Aim) -> Step {
    let client = claiming(aim, SOCK_STREAM)?;
    pause();
    client.connect(SocketAddr::new(aim.own, SERVER_PORT + 1))
}

/// A closed port for datagrams: the kernel's "unreachable" carries the datagram to the claimed
/// sender.
pub(super) fn unreachable(aim: &Aim) -> Step {
    let client = claiming(aim, SOCK_DGRAM)?;
    client.send_to(PAYLOAD, SocketAddr::new(aim.own, SERVER_PORT + 1), 0)
}

/// The same, with the address taken before the attach.
pub(super) fn older_unreachable(aim: &Aim) -> Step {
    let client = claiming(aim, SOCK_DGRAM)?;
    pause();
    client.send_to(PAYLOAD, SocketAddr::new(aim.own, SERVER_PORT + 1), 0)
}

/// A datagram server that seems to have received a datagram from the target.
pub(super) fn peer(aim: &Aim) -> Step {
    write_to_own_server(aim, || claiming(aim, SOCK_DGRAM))
}

/// The same, with the address taken before the attach.
pub(super) fn older_peer(aim: &Aim) -> Step {
    let client = claiming(aim, SOCK_DGRAM)?;
    pause();
    write_to_own_server(aim, || Ok(client))
}

fn write_to_own_server(aim: &Aim, client: impl FnOnce() -> Step<Sock>) -> Step {
    let server = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    server.bind(SocketAddr::new(aim.own, 0))?;
    let to = SocketAddr::new(aim.own, server.port()?);
    let forged = client().and_then(|client| client.send_to(PAYLOAD, to, 0));
    // The server tries to answer whether or not it received anything.
    let read = server.sender(0);
    server.send_to(PAYLOAD, aim.to, 0)?;
    forged.and(read.map(drop))
}

/// A server to which the target itself wrote, and its peer.
fn called(aim: &Aim) -> Step<(Sock, SocketAddr)> {
    called_by(aim, 0)
}

fn called_by(aim: &Aim, flags: c_int) -> Step<(Sock, SocketAddr)> {
    let server = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    server.turn_on(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    server.bind(SocketAddr::new(aim.own, SERVER_PORT))?;
    let start = Instant::now();
    loop {
        match server.sender(flags) {
            Ok(peer) if peer.ip() == aim.to.ip() => return Ok((server, peer)),
            Err(stop) if start.elapsed() > CALLED_WITHIN => return Err(stop),
            _ => {}
        }
    }
}

/// An answer to the peer that wrote. It is not an escape, and must work.
pub(super) fn answer(aim: &Aim) -> Step {
    let (server, peer) = called(aim)?;
    server.send_to(PAYLOAD, peer, 0)
}

/// The same by a server that connects its socket to the peer.
pub(super) fn answer_connected(aim: &Aim) -> Step {
    let (server, peer) = called(aim)?;
    server.connect(peer)?;
    server.send(PAYLOAD)
}

/// The same, and again after the time limit of the answer.
pub(super) fn answer_aged(aim: &Aim) -> Step {
    let (server, peer) = called(aim)?;
    server.send_to(PAYLOAD, peer, 0)?;
    pause();
    server.send_to(PAYLOAD, peer, 0)
}

/// The same, with the datagram left where it is and read again.
pub(super) fn answer_peeked(aim: &Aim) -> Step {
    let (server, peer) = called_by(aim, libc::MSG_PEEK)?;
    server.send_to(PAYLOAD, peer, 0)?;
    pause();
    server.sender(libc::MSG_PEEK)?;
    server.send_to(PAYLOAD, peer, 0)
}

/// The same, with one datagram of several read before the pause and the next one after it.
pub(super) fn answer_waited(aim: &Aim) -> Step {
    let (server, peer) = called_by(aim, libc::MSG_PEEK)?;
    let start = Instant::now();
    while server.memory()? < SEVERAL {
        if start.elapsed() > CALLED_WITHIN {
            return Err(Stop {
                call: "waiting for datagrams".to_owned(),
                errno: libc::ETIMEDOUT,
            });
        }
    }
    server.sender(0)?;
    server.send_to(PAYLOAD, peer, 0)?;
    pause();
    server.sender(0)?;
    server.send_to(PAYLOAD, peer, 0)
}

/// Many answers to a peer that wrote once.
pub(super) fn answers(aim: &Aim) -> Step {
    let (server, peer) = called(aim)?;
    (0..100).try_for_each(|_| server.send_to(PAYLOAD, peer, 0))
}

/// An answer to another port of the peer that wrote.
pub(super) fn answer_other_port(aim: &Aim) -> Step {
    let (server, peer) = called(aim)?;
    server.send_to(PAYLOAD, SocketAddr::new(peer.ip(), peer.port() + 1), 0)
}

/// An answer to another host.
pub(super) fn answer_other_host(aim: &Aim) -> Step {
    let (server, peer) = called(aim)?;
    let beside = match peer.ip() {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + 1).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) + 1).to_be_bytes()),
    };
    server.send_to(PAYLOAD, SocketAddr::new(beside, peer.port()), 0)
}

/// An answer by another socket than the one that received the datagram.
pub(super) fn answer_by_another(aim: &Aim) -> Step {
    let (_server, peer) = called(aim)?;
    let other = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    other.turn_on(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    other.bind(SocketAddr::new(aim.own, SERVER_PORT))?;
    other.connect(peer)?;
    other.send(PAYLOAD)
}

/// A workload that takes the proxy's port.
pub(super) fn take_proxy_port(aim: &Aim) -> Step {
    let mut last = Err(Stop {
        call: String::new(),
        errno: 0,
    });
    for ip in [aim.loopback(), aim.unspecified()] {
        let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
        sock.turn_on(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
        sock.turn_on(libc::SOL_SOCKET, libc::SO_REUSEPORT)?;
        last = sock
            .bind(SocketAddr::new(ip, aim.proxy_port))
            .and_then(|()| sock.listen());
        if last.is_ok() {
            return last;
        }
    }
    last
}
