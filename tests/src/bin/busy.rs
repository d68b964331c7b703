//! The busy client of the suites: runs below an enforced root and does one thing many times.
//!
//! Every verb prints one line of JSON at its end (`watch` one for each change too). The tests check
//! the results.

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand};
use serde_json::json;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Requests on new connections that end with a reset, so that their ports are free at once
    Hammer {
        #[arg(long)]
        host: String,
        #[arg(long)]
        count: usize,
        #[arg(long)]
        threads: usize,
        /// Dialled in turn; the path of the request names the target
        targets: Vec<SocketAddr>,
    },
    /// Requests over kept connections, one thread for each connection
    Requests {
        #[arg(long)]
        host: String,
        #[arg(long)]
        count: usize,
        #[arg(long)]
        threads: usize,
        target: SocketAddr,
    },
    /// Opens connections, sends the beginning of a request on each, and holds them until standard input ends; prints
    /// the number of open ones each second
    Hoard {
        #[arg(long)]
        count: usize,
        /// The beginning of each request; a backslash and an n are CR LF
        #[arg(long, default_value = "")]
        begin: String,
        /// Bytes that follow it
        #[arg(long, default_value_t = 0)]
        bytes: usize,
        target: SocketAddr,
    },
    /// Requests over one connection, and a new one when it ends, until standard input ends; prints a line for each
    /// change of the outcome
    Ask {
        #[arg(long)]
        host: String,
        target: SocketAddr,
    },
    /// Connects repeatedly until standard input ends; prints a line for each change of the outcome
    Watch { target: SocketAddr },
}

const LIMIT: Duration = Duration::from_secs(10);

fn main() -> Result<()> {
    match Cli::parse().verb {
        Verb::Hammer {
            host,
            count,
            threads,
            targets,
        } => hammer(&host, count, threads, &targets),
        Verb::Requests {
            host,
            count,
            threads,
            target,
        } => {
            requests(&host, count, threads, target);
            Ok(())
        }
        Verb::Hoard {
            count,
            begin,
            bytes,
            target,
        } => hoard(count, &begin, bytes, target),
        Verb::Ask { host, target } => ask(&host, target),
        Verb::Watch { target } => watch(target),
    }
}

fn hammer(host: &str, count: usize, threads: usize, targets: &[SocketAddr]) -> Result<()> {
    if targets.is_empty() {
        bail!("no target");
    }
    let (next, ok, reset) = (
        AtomicUsize::new(0),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let failures = std::sync::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    let target = targets[n % targets.len()];
                    // Every fourth client leaves before it can get an answer. Its port is then free again before the
                    // proxy sees the connection.
                    let wait = n % 4 != 3;
                    match shot(host, target, wait) {
                        Ok(()) if wait => ok.fetch_add(1, Ordering::Relaxed),
                        Ok(()) => reset.fetch_add(1, Ordering::Relaxed),
                        Err(e) => {
                            if let Ok(mut list) = failures.lock() {
                                list.push(format!("{target}: {e:#}"));
                            }
                            0
                        }
                    };
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    println!(
        "{}",
        json!({
            "ok": ok.into_inner(),
            "reset": reset.into_inner(),
            "failed": failures.len(),
            "first": failures.first(),
        })
    );
    Ok(())
}

fn shot(host: &str, target: SocketAddr, wait: bool) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, LIMIT).context("connect")?;
    rustix::net::sockopt::set_socket_linger(stream.as_fd(), Some(Duration::ZERO))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream
        .write_all(request(host, target).as_bytes())
        .context("write")?;
    if wait {
        let code = status(&mut io::BufReader::new(&stream)).context("answer")?;
        if code != 200 {
            bail!("status {code}");
        }
    }
    Ok(())
}

fn request(host: &str, target: SocketAddr) -> String {
    format!(
        "GET /get?dialled={} HTTP/1.1\r\nHost: {host}\r\n\r\n",
        target.ip()
    )
}

/// Reads one whole response and returns its status.
fn status(stream: &mut impl io::BufRead) -> Result<u16> {
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let code = line
        .split(' ')
        .nth(1)
        .context("closed without an answer")?
        .parse()?;
    let mut length = 0;
    loop {
        line.clear();
        if stream.read_line(&mut line)? == 0 {
            bail!("closed in the middle of the headers");
        }
        if line == "\r\n" {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
    }
    io::copy(&mut stream.take(length), &mut io::sink())?;
    Ok(code)
}

fn requests(host: &str, count: usize, threads: usize, target: SocketAddr) {
    let (next, ok) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failures = std::sync::Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut stream = None;
                loop {
                    if next.fetch_add(1, Ordering::Relaxed) >= count {
                        return;
                    }
                    match kept(&mut stream, host, target) {
                        Ok(()) => {
                            ok.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(e) => {
                            stream = None;
                            if let Ok(mut list) = failures.lock() {
                                list.push(format!("{e:#}"));
                            }
                        }
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap_or_default();
    println!(
        "{}",
        json!({ "ok": ok.into_inner(), "failed": failures.len(), "first": failures.first() })
    );
}

fn hoard(count: usize, begin: &str, bytes: usize, target: SocketAddr) -> Result<()> {
    let ended = told_to_end();
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit)?;
    let mut head = begin.replace("\\n", "\r\n").into_bytes();
    head.resize(head.len() + bytes, b'x');
    let mut hoarded = Vec::new();
    for _ in 0..count {
        let Ok(mut stream) = TcpStream::connect_timeout(&target, LIMIT) else {
            continue;
        };
        stream.set_nonblocking(true)?;
        // Bytes that do not fit into the kernel's buffers are dropped, because the proxy has stopped reading.
        let _ = stream.write(&head);
        hoarded.push(stream);
    }
    while !ended.load(Ordering::SeqCst) {
        let mut byte = [0];
        let open = |stream: &&TcpStream| match stream.peek(&mut byte) {
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
            Ok(_) => false,
        };
        let open = hoarded.iter().filter(open).count();
        println!("{}", json!({ "connected": hoarded.len(), "open": open }));
        io::stdout().flush()?;
        thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

fn ask(host: &str, target: SocketAddr) -> Result<()> {
    let ended = told_to_end();
    let (mut stream, mut last, mut asked) = (None, String::new(), 0_u64);
    while !ended.load(Ordering::SeqCst) {
        let outcome = match kept(&mut stream, host, target) {
            Ok(()) => "200".to_owned(),
            Err(error) => {
                let error = format!("{error:#}");
                // The connection is usable only after an answer.
                if !error.starts_with("status") {
                    stream = None;
                }
                error
            }
        };
        asked += 1;
        if outcome != last {
            println!(
                "{}",
                json!({ "at": microseconds() as u64, "outcome": outcome })
            );
            io::stdout().flush()?;
            last = outcome;
        }
    }
    println!("{}", json!({ "asked": asked }));
    Ok(())
}

fn kept(
    stream: &mut Option<io::BufReader<TcpStream>>,
    host: &str,
    target: SocketAddr,
) -> Result<()> {
    let reader = if let Some(reader) = stream {
        reader
    } else {
        let fresh = TcpStream::connect_timeout(&target, LIMIT).context("connect")?;
        fresh.set_read_timeout(Some(LIMIT))?;
        stream.insert(io::BufReader::new(fresh))
    };
    reader
        .get_mut()
        .write_all(request(host, target).as_bytes())
        .context("write")?;
    match status(reader).context("answer")? {
        200 => Ok(()),
        code => bail!("status {code}"),
    }
}

/// Set once standard input has ended.
fn told_to_end() -> &'static AtomicBool {
    static ENDED: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        ENDED.store(true, Ordering::SeqCst);
    });
    &ENDED
}

fn microseconds() -> u128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_micros())
}

fn watch(target: SocketAddr) -> Result<()> {
    let ended = told_to_end();
    let (mut tries, mut connected, mut last) = (0_u64, 0_u64, String::new());
    while !ended.load(Ordering::SeqCst) {
        // A connect whose SYN is on its way when a rule changes gets no answer.
        let outcome = match TcpStream::connect_timeout(&target, Duration::from_millis(500)) {
            Ok(_) => {
                connected += 1;
                // The pause lets the host accept. Otherwise the next SYN waits for room in its queue.
                thread::sleep(Duration::from_millis(1));
                "connected".to_owned()
            }
            Err(e) => format!("{:?}", e.kind()),
        };
        tries += 1;
        if outcome != last {
            println!(
                "{}",
                json!({ "at": microseconds() as u64, "outcome": outcome })
            );
            io::stdout().flush()?;
            last = outcome;
        }
    }
    println!("{}", json!({ "tries": tries, "connected": connected }));
    Ok(())
}
