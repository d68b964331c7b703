//! A client inside the gate that asks a DNS server over UDP.
//!
//! ```text
//! asker steady SERVER LISTED UNLISTED    until its standard input ends: asks for both names every 2 ms, on new and
//!                                        kept sockets, and prints counts as one line of JSON
//! asker each SERVER LETTER COUNT PAUSE   asks for LETTERn.example, one query after the other with a pause in µs, and prints
//!                                        each address with the time at which it came (CLOCK_MONOTONIC) and how long
//!                                        that took, in ns; `lost` without an answer
//! ```
//!
//! Owns the queries and counts. The caller judges them.

use anyhow::{Context as _, Result, bail, ensure};
use egress_tests::prober::now;
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

static STOP: AtomicBool = AtomicBool::new(false);
const EVERY: Duration = Duration::from_millis(2);
/// A later answer is none.
const PATIENCE: Duration = Duration::from_secs(5);
const LOST: Duration = Duration::from_secs(1);
/// Names of one letter.
const NAMES: u16 = 20;
/// The bits of the second flags octet that hold the response code.
const CODE: u8 = 0x0f;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["steady", server, listed, unlisted] => steady(server, listed, unlisted),
        ["each", server, letter, count, pause] => each(server, letter, count, pause),
        _ => Err(anyhow::anyhow!(
            "usage: asker steady SERVER LISTED UNLISTED | asker each SERVER LETTER COUNT PAUSE"
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("asker: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A query of type A.
fn query(id: u16, name: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

fn socket(server: &str) -> Result<UdpSocket> {
    let server: SocketAddr = server.parse()?;
    let any = if server.is_ipv6() {
        "[::]:0"
    } else {
        "0.0.0.0:0"
    };
    Ok(UdpSocket::bind(any)?)
}

fn each(server: &str, letter: &str, count: &str, pause: &str) -> Result<()> {
    let socket = socket(server)?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(LOST))?;
    let pause = Duration::from_micros(pause.parse()?);
    let mut out = std::io::stdout().lock();
    let mut message = [0; 512];
    for n in 0..count.parse::<u16>()? {
        let begun = now();
        socket.send(&query(n, &format!("{letter}{}.example", n % NAMES)))?;
        let answer = loop {
            match socket.recv(&mut message) {
                // The answer to a query that counts as lost.
                Ok(length) if !message[..length].starts_with(&n.to_be_bytes()) => {}
                Ok(length) => break Some(&message[..length]),
                Err(_) => break None,
            }
        };
        let got = now();
        let Some(answer) = answer else {
            writeln!(out, "lost")?;
            continue;
        };
        ensure!(answer[3] & CODE == 0, "code {}", answer[3] & CODE);
        ensure!(answer[7] == 1, "{} answers", answer[7]);
        let Some(address) = answer.last_chunk::<4>() else {
            bail!("no address");
        };
        let (at, took) = (got.as_nanos(), got.saturating_sub(begun).as_nanos());
        writeln!(out, "{} {at} {took}", Ipv4Addr::from(*address))?;
        if !pause.is_zero() {
            thread::sleep(pause);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Counts {
    sent: u64,
    unsent: u64,
    resolved: u64,
    failed: u64,
    denied: u64,
    wrong: u64,
    longest: Duration,
}

impl Counts {
    /// Takes an answer. Returns whether the listed name was resolved.
    fn take(&mut self, answer: &[u8]) -> bool {
        let [_, low, _, flags, .., count] = answer[..8] else {
            return false;
        };
        let resolved = flags & CODE == 0 && count > 0;
        match (low & 1 == 0, resolved) {
            (true, true) => self.resolved += 1,
            (true, false) => self.failed += 1,
            (false, true) => self.wrong += 1,
            (false, false) => self.denied += 1,
        }
        low & 1 == 0 && resolved
    }
}

/// Queries for the listed name have even ids.
fn steady(server: &str, listed: &str, unlisted: &str) -> Result<()> {
    thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        STOP.store(true, Ordering::Relaxed);
    });
    let kept = socket(server)?;
    kept.connect(server)?;
    kept.set_nonblocking(true)?;
    let (mut counts, mut id) = (Counts::default(), 0_u16);
    let mut last: Option<Instant> = None;
    let mut others: Vec<(Instant, UdpSocket)> = Vec::new();
    let mut message = [0; 512];
    while !STOP.load(Ordering::Relaxed) {
        let begun = Instant::now();
        for name in [listed, unlisted] {
            let message = query(id, name);
            let sent = if id % 64 < 2 {
                let other = socket(server)?;
                other.set_nonblocking(true)?;
                let sent = other.send_to(&message, server);
                others.push((begun, other));
                sent
            } else {
                kept.send(&message)
            };
            match sent {
                Ok(_) => counts.sent += 1,
                Err(_) => counts.unsent += 1,
            }
            id = id.wrapping_add(1);
        }
        others.retain(|(at, _)| at.elapsed() < PATIENCE);
        let until = begun + EVERY;
        while Instant::now() < until {
            let mut any = false;
            for socket in std::iter::once(&kept).chain(others.iter().map(|(_, other)| other)) {
                while let Ok(length) = socket.recv(&mut message) {
                    if length >= 12 && counts.take(&message[..length]) {
                        any = true;
                    }
                }
            }
            if any {
                if let Some(last) = last {
                    counts.longest = counts.longest.max(last.elapsed());
                } else {
                    println!("{}", json!({ "answering": counts.resolved }));
                }
                last = Some(Instant::now());
            }
            thread::sleep(Duration::from_micros(500));
        }
    }
    let last = last.context("no answer at all")?;
    counts.longest = counts.longest.max(last.elapsed());
    println!(
        "{}",
        json!({
            "sent": counts.sent,
            "unsent": counts.unsent,
            "resolved": counts.resolved,
            "failed": counts.failed,
            "denied": counts.denied,
            "wrong": counts.wrong,
            "longestUs": counts.longest.as_micros() as u64,
        })
    );
    Ok(())
}
