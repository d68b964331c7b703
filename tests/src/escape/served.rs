//! Servers of streams behind the gate: every client is answered, and a socket that has served is no
//! way out.

use super::sock::{Sock, Step, Stop, check};
use super::staged::pause;
use super::{Aim, PAYLOAD};
use libc::SOCK_STREAM;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// Ports of servers that the outside calls: one that waits for the agent keeps its own.
pub const STREAM_PORTS: [u16; 2] = [7011, 7012];

/// How long a server waits for a caller and for what it says.
const CALLED_WITHIN: Duration = Duration::from_secs(5);

fn listener(aim: &Aim, port: u16) -> Step<Sock> {
    let listener = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    listener.turn_on(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    listener.bind(SocketAddr::new(aim.own, port))?;
    listener.listen()?;
    Ok(listener)
}

/// One that the outside calls.
fn server(aim: &Aim) -> Step<Sock> {
    let [first, second] = STREAM_PORTS;
    listener(aim, first).or_else(|_| listener(aim, second))
}

fn accept(listener: &Sock) -> Step<Sock> {
    let start = Instant::now();
    loop {
        // SAFETY: no memory is passed
        let fd = check("accept", unsafe {
            libc::accept(listener.fd(), std::ptr::null_mut(), std::ptr::null_mut()).into()
        });
        match fd {
            // SAFETY: the kernel just made it for this process
            Ok(fd) => return Ok(Sock::from_fd(unsafe { OwnedFd::from_raw_fd(fd) })),
            // Sockets of probes wait for a time only.
            Err(Stop { errno, .. }) if errno == libc::EAGAIN && start.elapsed() < CALLED_WITHIN => {
            }
            Err(stop) => return Err(stop),
        }
    }
}

/// Says something and waits until the caller says it back: so it came there.
fn answer(accepted: &Sock) -> Step {
    accepted.send(PAYLOAD)?;
    accepted.receive()
}

/// Answers callers until one has heard it: those before may have given up.
fn serve(listener: &Sock) -> Step {
    let start = Instant::now();
    loop {
        let answered = answer(&accept(listener)?);
        if answered.is_ok() || start.elapsed() > CALLED_WITHIN {
            return answered;
        }
    }
}

/// A caller from outside is answered.
pub(super) fn caller(aim: &Aim) -> Step {
    serve(&server(aim)?)
}

/// The same, after the listener was closed.
pub(super) fn last_caller(aim: &Aim) -> Step {
    let listener = server(aim)?;
    let accepted = accept(&listener)?;
    drop(listener);
    answer(&accepted)
}

/// A server that listened before the attach.
pub(super) fn older_server(aim: &Aim) -> Step {
    let listener = server(aim)?;
    pause();
    serve(&listener)
}

/// A listener that has answered a handshake stops listening and connects.
fn then_connect(aim: &Aim, listener: &Sock) -> Step {
    let client = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    client.connect(SocketAddr::new(aim.own, listener.port()?))?;
    drop(accept(listener)?);
    listener.disconnect()?;
    listener.connect(aim.to)?;
    listener.send(PAYLOAD)
}

/// A listener made behind the gate turns client.
pub(super) fn listener_then_connect(aim: &Aim) -> Step {
    then_connect(aim, &listener(aim, 0)?)
}

/// A listener older than the gate turns client.
pub(super) fn older_listener_then_connect(aim: &Aim) -> Step {
    let listener = listener(aim, 0)?;
    pause();
    then_connect(aim, &listener)
}

/// A client's socket turns listener and client again.
pub(super) fn client_then_listener(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    sock.connect(aim.listed)?;
    sock.disconnect()?;
    sock.listen()?;
    then_connect(aim, &sock)
}

/// A connection made before the attach is bound again, to the proxy's port: denied, and no reason
/// to trust it.
pub(super) fn older_connection_bound(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    sock.connect(aim.to)?;
    pause();
    let _ = sock.bind(SocketAddr::new(aim.loopback(), aim.proxy_port));
    sock.send(PAYLOAD)
}
