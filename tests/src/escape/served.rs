//! Servers of streams behind the gate: every client gets an answer, and a socket that has served is not a way out.

use super::sock::{Sock, Step, Stop, check};
use super::staged::pause;
use super::{Aim, PAYLOAD};
use libc::SOCK_STREAM;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

/// Ports of servers that the outside calls. A server that waits for the agent has a port of its own.
pub const STREAM_PORTS: [u16; 2] = [7011, 7012];

/// How long a server waits for a caller and for its bytes.
const CALLED_WITHIN: Duration = Duration::from_secs(5);

fn listener(aim: &Aim, port: u16) -> Step<Sock> {
    let listener = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    listener.turn_on(libc::SOL_SOCKET, libc::SO_REUSEADDR)?;
    listener.bind(SocketAddr::new(aim.own, port))?;
    listener.listen()?;
    Ok(listener)
}

/// A server that the outside calls.
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
            // Sockets of probes have a time limit.
            Err(Stop { errno, .. }) if errno == libc::EAGAIN && start.elapsed() < CALLED_WITHIN => {
            }
            Err(stop) => return Err(stop),
        }
    }
}

/// Sends bytes and waits until the caller sends them back, which proves that they arrived.
fn answer(accepted: &Sock) -> Step {
    accepted.send(PAYLOAD)?;
    accepted.receive()
}

/// Answers callers until one confirms the answer. Earlier callers may have given up.
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

/// A listener that was made behind the gate becomes a client.
pub(super) fn listener_then_connect(aim: &Aim) -> Step {
    then_connect(aim, &listener(aim, 0)?)
}

/// A listener that is older than the gate becomes a client.
pub(super) fn older_listener_then_connect(aim: &Aim) -> Step {
    let listener = listener(aim, 0)?;
    pause();
    then_connect(aim, &listener)
}

/// A client's socket becomes a listener and a client again.
pub(super) fn client_then_listener(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    sock.connect(aim.listed)?;
    sock.disconnect()?;
    sock.listen()?;
    then_connect(aim, &sock)
}

/// A connection from before the attach is bound again, to the proxy's port. That is denied, and must not make the
/// socket trusted.
pub(super) fn older_connection_bound(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    sock.connect(aim.to)?;
    pause();
    let _ = sock.bind(SocketAddr::new(aim.loopback(), aim.proxy_port));
    sock.send(PAYLOAD)
}
