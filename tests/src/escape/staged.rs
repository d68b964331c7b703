//! Probes in two parts: between them the harness moves the process, starts the agent, or kills it.

use super::sock::{Sock, Step};
use super::{Aim, PAYLOAD};
use libc::{SOCK_DGRAM, SOCK_STREAM};
use std::io::{BufRead as _, Write as _};

/// The line that the first part prints at its end.
pub const READY: &str = "ready";

/// Ends the first part, and waits for the harness.
pub(super) fn pause() {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{READY}");
    let _ = out.flush();
    let _ = std::io::stdin().lock().read_line(&mut String::new());
}

pub(super) fn socket_then_connect(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    pause();
    sock.connect(aim.to)?;
    sock.send(PAYLOAD)
}

pub(super) fn connected_then_send(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    sock.connect(aim.to)?;
    pause();
    sock.send(PAYLOAD)
}

pub(super) fn datagram_connected_then_send(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    sock.connect(aim.to)?;
    pause();
    sock.send(PAYLOAD)
}

pub(super) fn datagram_then_send_to(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    pause();
    sock.send_to(PAYLOAD, aim.to, 0)
}

pub(super) fn pause_then_all(aim: &Aim) -> Step {
    pause();
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    sock.connect(aim.to)?;
    sock.send(PAYLOAD)
}

/// A network namespace of the workload's own.
pub(super) fn own_namespace(aim: &Aim) -> Step {
    // SAFETY: a network namespace does not touch memory, and this process has one thread
    super::sock::check("unshare", unsafe {
        libc::unshare(libc::CLONE_NEWNET).into()
    })?;
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    sock.connect(aim.to)?;
    sock.send(PAYLOAD)
}
