//! A client that tries one way out and prints the kernel's answer as one line of JSON.
//!
//! Owns sockets only; it runs inside a cgroup and a namespace that a test chose. The test checks
//! the answer.

use clap::{Parser, Subcommand};
use egress_tests::prober::now;
use serde_json::{Value, json};
use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Longer than any answer of a host of the lab.
const LIMIT: Duration = Duration::from_secs(5);

/// The time limit for the handshake of an allowed connect. It is longer than the kernel needs on loopback.
const HANDSHAKE: Duration = Duration::from_millis(100);
/// The pause between two connects that wait for another verdict.
const BETWEEN: Duration = Duration::from_micros(200);

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
    /// Connect over TCP and close, repeatedly until standard input ends.
    Loop { to: SocketAddr },
    /// Read `allowed ADDRESS COUNT` or `denied ADDRESS COUNT` line by line. Connect over TCP to that many addresses in
    /// turn, to each until the gate gives that verdict, and print the time.
    When,
    /// Connect over TCP to each destination, again after a pause in milliseconds, until standard input
    /// ends. Count the connects that the gate denied.
    Watch { pause: u64, to: Vec<SocketAddr> },
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
        Way::When => return when(),
        Way::Watch { pause, to } => watch(Duration::from_millis(pause), &to),
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
        // The end of a stream and a time limit have no error number.
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

/// Prints `up` once connected, and then each line that comes back.
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

/// Prints `up` once connected, and then each line that comes back, or `errno` and the number.
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
    let over = end_of_input();
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

/// Set when standard input ends.
fn end_of_input() -> Arc<AtomicBool> {
    let over = Arc::new(AtomicBool::new(false));
    let watched = Arc::clone(&over);
    thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        watched.store(true, Ordering::Relaxed);
    });
    over
}

/// Whether the gate denies a connect. The gate decides at once, and the kernel answers at once for a local address
/// without a listener.
fn denies(to: SocketAddr) -> io::Result<bool> {
    match TcpStream::connect_timeout(&to, HANDSHAKE) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => Ok(false),
        Err(error) => Err(error),
        Ok(_) => Ok(false),
    }
}

fn when() -> ExitCode {
    for line in io::stdin().lines().map_while(Result::ok) {
        let words: Vec<_> = line.split(' ').collect();
        let (asked, first, count) = match words[..] {
            [asked, first, count] => (asked == "denied", first.parse(), count.parse()),
            _ => return ExitCode::FAILURE,
        };
        let (Ok(first), Ok(count)) = (first, count) else {
            return ExitCode::FAILURE;
        };
        let mut to: SocketAddr = first;
        let mut at = now();
        for _ in 0..count {
            // A connect that fails otherwise was not denied.
            while denies(to).unwrap_or(false) != asked {
                thread::sleep(BETWEEN);
                at = now();
            }
            if let IpAddr::V4(ip) = to.ip() {
                to.set_ip(Ipv4Addr::from_bits(ip.to_bits() + 1).into());
            }
        }
        println!("{}", at.as_nanos());
        if io::stdout().flush().is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// `{"tries": n, "denied": n, "failed": n, "longest_micros": n}`.
fn watch(pause: Duration, all: &[SocketAddr]) -> Value {
    let over = end_of_input();
    let (mut tries, mut denied, mut failed) = (0_u64, 0_u64, 0_u64);
    // For each destination, the first of the present series of denied connects.
    let mut since: Vec<Option<Instant>> = vec![None; all.len()];
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        for (to, since) in all.iter().zip(&mut since) {
            tries += 1;
            match denies(*to) {
                Ok(true) => {
                    denied += 1;
                    since.get_or_insert_with(Instant::now);
                }
                Ok(false) => {
                    let was = since.take().map_or(Duration::ZERO, |at| at.elapsed());
                    longest = longest.max(was);
                }
                Err(_) => failed += 1,
            }
        }
        thread::sleep(pause);
    }
    let still = since.into_iter().flatten().map(|at| at.elapsed()).max();
    let longest = longest.max(still.unwrap_or_default());
    let longest = u64::try_from(longest.as_micros()).unwrap_or(u64::MAX);
    json!({ "tries": tries, "denied": denied, "failed": failed, "longest_micros": longest })
}
