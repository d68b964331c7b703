//! A client that tries one way out and says what the kernel answered, in one line of JSON.
//!
//! Owns sockets only; it runs inside a cgroup and a namespace that a test chose. What the answer
//! should have been is the test's to say.

use clap::{Parser, Subcommand};
use serde_json::{Value, json};
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any answer of a host of the lab.
const LIMIT: Duration = Duration::from_secs(5);

/// Try one way out and say what the kernel answered.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    way: Way,
}

#[derive(Subcommand)]
enum Way {
    /// Connect over TCP.
    Tcp { to: SocketAddr },
    /// Connect over TCP, send a word and wait for it to come back.
    TcpEcho { to: SocketAddr },
    /// Send a datagram without connecting and wait for it to come back.
    Udp { to: SocketAddr },
    /// Connect a datagram socket, send and wait.
    UdpConnected { to: SocketAddr },
    /// Connect over TCP, then send back and forth each line of standard input.
    Hold { to: SocketAddr },
    /// Connect a datagram socket, then send each line of standard input and wait for it.
    HoldUdp { to: SocketAddr },
    /// Connect over TCP and close, again and again until standard input ends.
    Loop { to: SocketAddr },
}

fn main() -> ExitCode {
    let result = match Cli::parse().way {
        Way::Tcp { to } => timed(|| TcpStream::connect_timeout(&to, LIMIT).map(drop)),
        Way::TcpEcho { to } => timed(|| tcp_echo(to)),
        Way::Udp { to } => timed(|| udp(to, false)),
        Way::UdpConnected { to } => timed(|| udp(to, true)),
        Way::Hold { to } => timed(|| hold(to)),
        Way::HoldUdp { to } => timed(|| hold_udp(to)),
        Way::Loop { to } => connects(to),
    };
    println!("{result}");
    ExitCode::SUCCESS
}

/// The outcome of `attempt`: `{"errno": null | number, "error": ..., "micros": ...}`.
fn timed(attempt: impl FnOnce() -> io::Result<()>) -> Value {
    let start = Instant::now();
    let outcome = attempt();
    let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    match outcome {
        Ok(()) => json!({ "errno": null, "error": null, "micros": micros }),
        // An end of stream or a limit of time has no number of its own.
        Err(error) => {
            json!({ "errno": error.raw_os_error().unwrap_or(-1), "error": error.to_string(), "micros": micros })
        }
    }
}

fn tcp_echo(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"word")?;
    let mut back = [0; 4];
    stream.read_exact(&mut back)
}

/// A datagram socket without an address of its own, for destinations like `to`.
fn unbound(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

fn udp(to: SocketAddr, connected: bool) -> io::Result<()> {
    let socket = unbound(to)?;
    if connected {
        socket.connect(to)?;
        socket.send(b"word")?;
    } else {
        socket.send_to(b"word", to)?;
    }
    let mut back = [0; 16];
    let (_, from) = socket.recv_from(&mut back)?;
    if from.ip() != to.ip() {
        return Err(io::Error::other(format!("the answer came from {from}")));
    }
    Ok(())
}

/// Says `up` once connected, then each line as it came back.
fn hold(to: SocketAddr) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&to, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    println!("up");
    for line in io::stdin().lock().lines() {
        let line = line?;
        stream.write_all(line.as_bytes())?;
        let mut back = vec![0; line.len()];
        stream.read_exact(&mut back)?;
        println!("{}", String::from_utf8_lossy(&back));
    }
    Ok(())
}

/// Says `up` once connected, then each line as it came back, or `errno` and the number.
fn hold_udp(to: SocketAddr) -> io::Result<()> {
    let socket = unbound(to)?;
    socket.connect(to)?;
    println!("up");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut back = vec![0; line.len()];
        let sent = socket.send(line.as_bytes());
        match sent.and_then(|_| socket.recv(&mut back)) {
            Ok(many) => println!("{}", String::from_utf8_lossy(&back[..many])),
            Err(error) => println!("errno {}", error.raw_os_error().unwrap_or(-1)),
        }
    }
    Ok(())
}

/// Counts outcomes until standard input ends: `{"connected": n, "denied": n, "refused": n,
/// "other": n, "longest_micros": n}`. Denied is EPERM, refused is ECONNREFUSED.
fn connects(to: SocketAddr) -> Value {
    let over = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&over);
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        watched.store(true, Ordering::Relaxed);
    });
    let (mut connected, mut denied, mut refused, mut other) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut longest = Duration::ZERO;
    println!("up");
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        match TcpStream::connect_timeout(&to, LIMIT) {
            Ok(_) => connected += 1,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => denied += 1,
            Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => refused += 1,
            Err(_) => other += 1,
        }
        longest = longest.max(start.elapsed());
    }
    let longest = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
    json!({
        "connected": connected, "denied": denied, "refused": refused, "other": other,
        "longest_micros": longest,
    })
}
