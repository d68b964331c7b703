//! A client that sends requests to a listed HTTP host continuously while a test restarts the agent: each on a
//! connection of its own, and others over a kept connection.
//!
//! Owns the tries and how long they failed. It works until its standard input ends and then prints
//! one line of JSON.

use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

static STOP: AtomicBool = AtomicBool::new(false);
/// The pauses between two tries on connections of their own, and between two requests on the kept connection.
const PAUSES: [Duration; 2] = [Duration::from_millis(3), Duration::from_millis(20)];
/// The time limit of one try.
const PATIENCE: Duration = Duration::from_secs(20);

/// The results of one kind of tries.
#[derive(Default)]
struct Tally {
    ok: u64,
    /// Failures by kind.
    failed: BTreeMap<String, u64>,
    /// The longest row of failures, from the beginning of the first to the end of the last.
    denied: Duration,
    /// The slowest success. Its connection waited for an agent, or its request was slow.
    slowest: Duration,
    row: Option<Instant>,
}

impl Tally {
    fn note(&mut self, began: Instant, result: io::Result<()>) {
        match result {
            Ok(()) => {
                self.ok += 1;
                self.slowest = self.slowest.max(began.elapsed());
                self.row = None;
            }
            Err(error) => {
                let first = *self.row.get_or_insert(began);
                self.denied = self.denied.max(first.elapsed());
                let what = match error.raw_os_error() {
                    Some(code) => format!("errno{code}"),
                    None => error.to_string(),
                };
                *self.failed.entry(what).or_default() += 1;
            }
        }
    }

    fn shown(self) -> serde_json::Value {
        json!({
            "ok": self.ok,
            "failed": self.failed,
            "deniedMs": self.denied.as_millis() as u64,
            "slowestMs": self.slowest.as_millis() as u64,
        })
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (to, host, pauses) = match &arguments[..] {
        [to, host] => (to, host, Some(PAUSES)),
        [to, host, pause] => {
            let pause = pause.parse().ok().map(Duration::from_millis);
            (to, host, pause.map(|pause| [pause; 2]))
        }
        _ => {
            eprintln!("usage: prober ADDRESS:PORT HOST [PAUSE IN MILLISECONDS]");
            return ExitCode::FAILURE;
        }
    };
    let Some([pause, kept_pause]) = pauses else {
        eprintln!("prober: the pause is a number of milliseconds");
        return ExitCode::FAILURE;
    };
    let Ok(to) = to.parse::<SocketAddr>() else {
        eprintln!("prober: {to}: want ADDRESS:PORT");
        return ExitCode::FAILURE;
    };
    println!("{}", json!("ready"));
    let (fresh, kept) = thread::scope(|scope| {
        let fresh = scope.spawn(|| fresh(to, host, pause));
        let kept = scope.spawn(|| kept(to, host, kept_pause));
        let _ = io::stdin().read_to_end(&mut Vec::new());
        STOP.store(true, Ordering::Relaxed);
        (fresh.join(), kept.join())
    });
    let (Ok(fresh), Ok(kept)) = (fresh, kept) else {
        return ExitCode::FAILURE;
    };
    println!("{}", json!({ "fresh": fresh.shown(), "kept": kept }));
    ExitCode::SUCCESS
}

fn fresh(to: SocketAddr, host: &str, pause: Duration) -> Tally {
    let mut tally = Tally::default();
    while !STOP.load(Ordering::Relaxed) {
        let began = Instant::now();
        let result = connect(to).and_then(|stream| {
            let request = format!("GET /get HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
            (&stream).write_all(request.as_bytes())?;
            response(&mut BufReader::new(&stream)).map(drop)
        });
        tally.note(began, result);
        thread::sleep(pause);
    }
    tally
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Requests on one connection for as long as it lives, then on the next one. `closed`: it ended
/// between two requests; `crossed`: it ended while a request was on its way and nothing of a
/// response had come; `cut`: a response was not whole.
fn kept(to: SocketAddr, host: &str, pause: Duration) -> serde_json::Value {
    let mut counts = BTreeMap::from([("ok", 0_u64), ("closed", 0), ("crossed", 0), ("cut", 0)]);
    let mut add = |what| *counts.entry(what).or_default() += 1;
    while !STOP.load(Ordering::Relaxed) {
        let Ok(stream) = connect(to) else {
            thread::sleep(pause);
            continue;
        };
        let mut reader = BufReader::new(&stream);
        while !STOP.load(Ordering::Relaxed) {
            if ended(&stream) {
                add("closed");
                break;
            }
            let request = format!("GET /get HTTP/1.1\r\nhost: {host}\r\n\r\n");
            if (&stream).write_all(request.as_bytes()).is_err() {
                add("crossed");
                break;
            }
            match response(&mut reader) {
                Ok(closes) => {
                    add("ok");
                    if closes {
                        add("closed");
                        break;
                    }
                }
                Err(error) if error.to_string() == NOTHING => {
                    add("crossed");
                    break;
                }
                Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => {
                    add("crossed");
                    break;
                }
                Err(_) => {
                    add("cut");
                    break;
                }
            }
            thread::sleep(pause);
        }
    }
    json!(counts)
}

/// Whether the other side has closed. Does not wait.
fn ended(stream: &TcpStream) -> bool {
    let nonblocking = |on| stream.set_nonblocking(on).is_ok();
    if !nonblocking(true) {
        return true;
    }
    let peeked = stream.peek(&mut [0]);
    nonblocking(false);
    !matches!(peeked, Err(e) if e.kind() == io::ErrorKind::WouldBlock)
}

/// The error of a connection that ended before the first byte of a response.
const NOTHING: &str = "closed without a byte";

/// Reads a response to its end; an error unless its status is 200. Returns whether the connection closes
/// after it.
fn response(reader: &mut BufReader<&TcpStream>) -> io::Result<bool> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::Error::other(NOTHING));
    }
    if line.split(' ').nth(1) != Some("200") {
        return Err(io::Error::other(line.trim().to_owned()));
    }
    let (mut length, mut closes) = (0, false);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        closes |= line == "connection: close";
    }
    reader.read_exact(&mut vec![0; length])?;
    Ok(closes)
}
