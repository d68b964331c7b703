//! The same calls with `io_uring`, whose workers make them for the task.

use super::raw::{Message, Raw};
use super::sock::{Sock, Step, Stop, check};
use super::{Aim, PAYLOAD};
use io_uring::{IoUring, opcode, squeue, types};
use libc::{SOCK_DGRAM, SOCK_STREAM};
use std::net::SocketAddr;

/// Runs one operation to its end and returns its result.
fn run(call: &str, entry: &squeue::Entry) -> Step<i32> {
    let failed = |e: std::io::Error| Stop {
        call: "io_uring".to_owned(),
        errno: e.raw_os_error().unwrap_or_default(),
    };
    let mut ring = IoUring::new(4).map_err(failed)?;
    // SAFETY: what the entry points to outlives this call, which waits for the operation's end
    unsafe { ring.submission().push(entry) }.map_err(|_| Stop {
        call: "io_uring".to_owned(),
        errno: libc::EBUSY,
    })?;
    // A silently dropped packet must not block the probe, so the ring has a timeout.
    let limit = types::Timespec::new().nsec(300_000_000);
    let arguments = types::SubmitArgs::new().timespec(&limit);
    ring.submitter()
        .submit_with_args(1, &arguments)
        .map_err(failed)?;
    let result = ring
        .completion()
        .next()
        .map_or(-libc::ETIME, |c| c.result());
    if result < 0 {
        return Err(Stop {
            call: call.to_owned(),
            errno: -result,
        });
    }
    check(call, result.into())
}

fn connect_by_ring(sock: &Sock, to: SocketAddr) -> Step {
    let raw = Raw::new(to);
    let entry = opcode::Connect::new(types::Fd(sock.fd()), raw.pointer(), raw.length()).build();
    run("io_uring connect", &entry).map(drop)
}

fn send_by_ring(sock: &Sock) -> Step {
    let length = PAYLOAD.len() as u32;
    let entry = opcode::Send::new(types::Fd(sock.fd()), PAYLOAD.as_ptr(), length).build();
    run("io_uring send", &entry).map(drop)
}

/// Takes the option by which a socket claims an address.
pub(super) fn claim(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    let (level, name) = if aim.to.is_ipv4() {
        (libc::IPPROTO_IP, libc::IP_FREEBIND)
    } else {
        (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND)
    };
    let on: libc::c_int = 1;
    let value = (&raw const on).cast();
    let length = size_of::<libc::c_int>() as u32;
    let entry = opcode::SetSockOpt::new(
        types::Fd(sock.fd()),
        level.cast_unsigned(),
        name.cast_unsigned(),
        value,
        length,
    )
    .build();
    run("io_uring setsockopt", &entry).map(drop)
}

pub(super) fn connect(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_STREAM, 0)?;
    connect_by_ring(&sock, aim.to)?;
    send_by_ring(&sock)
}

pub(super) fn send(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    connect_by_ring(&sock, aim.to)?;
    send_by_ring(&sock)
}

pub(super) fn send_msg(aim: &Aim) -> Step {
    let sock = Sock::of(aim.to.ip(), SOCK_DGRAM, 0)?;
    let raw = Raw::new(aim.to);
    let mut message = Message::new(PAYLOAD, &raw, None);
    let header = message.header();
    let entry = opcode::SendMsg::new(types::Fd(sock.fd()), &raw const header).build();
    run("io_uring sendmsg", &entry).map(drop)
}
