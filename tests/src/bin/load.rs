//! A workload that a test puts behind the gate: it connects and sends continuously, and counts the result of each
//! attempt.
//!
//! Owns the attempts. The test checks the counts. It works until its standard input is closed and
//! then prints one line: `NAME=COUNT ...`.

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use std::collections::BTreeMap;
use std::io::{self, Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Every kind of flow at the same time, with a pause after each try.
    Mix {
        /// A listed echo host that is reached without the proxy, by TCP and UDP.
        #[arg(long)]
        direct: SocketAddr,
        /// A listed host that is reached through the proxy.
        #[arg(long)]
        proxied: SocketAddr,
        /// A host that no rule lists.
        #[arg(long)]
        unlisted: SocketAddr,
        /// The pause between two tries of one kind, in microseconds.
        #[arg(long, default_value_t = 500)]
        pause: u64,
    },
    /// One connection that is used all the time, until its first error.
    Hold {
        /// An echo host.
        to: SocketAddr,
    },
    /// Connects datagram sockets as fast as possible. That sends no packet.
    Judge {
        /// Destinations that are listed.
        #[arg(long)]
        listed: Vec<SocketAddr>,
        /// Destinations that are not.
        #[arg(long)]
        unlisted: Vec<SocketAddr>,
    },
    /// Refused connects at a rate, for a time.
    Flood {
        /// Connects in a second.
        #[arg(long)]
        rate: u64,
        /// Duration in seconds.
        #[arg(long)]
        seconds: u64,
        /// Each to another destination.
        #[arg(long)]
        spread: bool,
        /// Use TCP instead of UDP.
        #[arg(long)]
        stream: bool,
    },
}

static STOP: AtomicBool = AtomicBool::new(false);
static COUNTS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());

/// The pause between two tries of one kind, in microseconds.
static PAUSE: AtomicU64 = AtomicU64::new(500);
/// The time limit of a try, which should be answered at once.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Flood {
            rate,
            seconds,
            spread,
            stream,
        } => flood(rate, Duration::from_secs(seconds), spread, stream),
        Task::Mix {
            direct,
            proxied,
            unlisted,
            pause,
        } => {
            PAUSE.store(pause, Ordering::Relaxed);
            // Made before the test disturbs anything. It must survive everything that the test does.
            let standing = TcpStream::connect(direct).context("the standing connection")?;
            let work: [Box<dyn Fn() + Send>; 6] = [
                repeat("standing", move || echo(&standing)),
                repeat("direct-tcp", move || echo(&connect(direct)?)),
                repeat("direct-udp", move || datagram(direct)),
                repeat("proxied", move || connect(proxied).map(drop)),
                repeat("unlisted-tcp", move || connect(unlisted).map(drop)),
                repeat("unlisted-udp", move || send(unlisted)),
            ];
            until_told(work)
        }
        Task::Hold { to } => {
            let stream = TcpStream::connect(to).context("the connection")?;
            until_told([repeat_until_error("hold", move || echo(&stream))])
        }
        Task::Judge { listed, unlisted } => {
            until_told([judge("listed", listed)?, judge("unlisted", unlisted)?])
        }
    }
}

/// Runs each work in a thread until standard input ends, and prints the counts.
fn until_told<const N: usize>(work: [Box<dyn Fn() + Send>; N]) -> Result<()> {
    println!("ready");
    io::stdout().flush()?;
    let threads: Vec<_> = work.into_iter().map(thread::spawn).collect();
    io::stdin().read_to_end(&mut Vec::new())?;
    STOP.store(true, Ordering::Relaxed);
    for thread in threads {
        if thread.join().is_err() {
            bail!("a thread panicked");
        }
    }
    print_counts();
    Ok(())
}

fn print_counts() {
    let counts = COUNTS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let words: Vec<_> = counts
        .iter()
        .map(|(name, count)| format!("{name}={count}"))
        .collect();
    println!("{}", words.join(" "));
}

fn count(name: &str, result: &io::Result<()>, times: u64) {
    let what = match result {
        Ok(()) => "ok".to_owned(),
        Err(e) => match e.raw_os_error() {
            Some(libc::EPERM) => "eperm".to_owned(),
            Some(libc::ECONNREFUSED) => "econnrefused".to_owned(),
            Some(code) => format!("errno{code}"),
            None => format!("{:?}", e.kind()).to_lowercase(),
        },
    };
    let mut counts = COUNTS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    *counts.entry(format!("{name}.{what}")).or_default() += times;
}

fn repeat(
    name: &'static str,
    once: impl Fn() -> io::Result<()> + Send + 'static,
) -> Box<dyn Fn() + Send> {
    Box::new(move || {
        while !STOP.load(Ordering::Relaxed) {
            count(name, &once(), 1);
            thread::sleep(Duration::from_micros(PAUSE.load(Ordering::Relaxed)));
        }
    })
}

fn repeat_until_error(
    name: &'static str,
    once: impl Fn() -> io::Result<()> + Send + 'static,
) -> Box<dyn Fn() + Send> {
    Box::new(move || {
        while !STOP.load(Ordering::Relaxed) {
            let result = once();
            count(name, &result, 1);
            if result.is_err() {
                return;
            }
            thread::sleep(Duration::from_micros(PAUSE.load(Ordering::Relaxed)));
        }
    })
}

fn judge(name: &'static str, to: Vec<SocketAddr>) -> Result<Box<dyn Fn() + Send>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let (passed, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    Ok(Box::new(move || {
        // Each is tried at least once, even if the load ends early.
        loop {
            for to in &to {
                match socket.connect(to) {
                    Ok(()) => passed.fetch_add(1, Ordering::Relaxed),
                    Err(_) => refused.fetch_add(1, Ordering::Relaxed),
                };
            }
            if STOP.load(Ordering::Relaxed) {
                break;
            }
        }
        let refusal = Err(io::Error::from_raw_os_error(libc::EPERM));
        count(name, &Ok(()), passed.load(Ordering::Relaxed));
        count(name, &refusal, refused.load(Ordering::Relaxed));
    }))
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn echo(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

fn datagram(to: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"x", to)?;
    socket.recv_from(&mut [0; 16]).map(drop)
}

fn send(to: SocketAddr) -> io::Result<()> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?
        .send_to(b"x", to)
        .map(drop)
}

/// In bursts of a millisecond or more, so that the rate holds over the whole time.
fn flood(rate: u64, time: Duration, spread: bool, stream: bool) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let pause = Duration::from_millis((1000 / rate.max(1)).max(1));
    let burst = rate * u64::try_from(pause.as_millis())? / 1000;
    let start = Instant::now();
    let (mut bursts, mut done, mut passed) = (0_u32, 0_u64, 0_u64);
    while start.elapsed() < time {
        for _ in 0..burst {
            let last = if spread { done as u32 } else { 0 };
            // 198.18.0.0/15 is for benchmarks (RFC 2544).
            let to = (Ipv4Addr::from_bits(0xc612_0000 | last & 0x1_ffff), 1);
            let connected = if stream {
                TcpStream::connect_timeout(&to.into(), PATIENCE).map(drop)
            } else {
                socket.connect(to)
            };
            passed += u64::from(connected.is_ok());
            done += 1;
        }
        bursts += 1;
        let next = start + pause * bursts;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let per_second = u128::from(done) * 1000 / start.elapsed().as_millis().max(1);
    println!("done={done} passed={passed} persecond={per_second}");
    Ok(())
}
