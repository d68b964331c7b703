//! The program `probe` for tests: one attempt, or one that continues in the background.
//!
//! Owns how it is run and read. `bin/probe.rs` has the attempts.

use crate::agent::beside;
use crate::child::Guarded;
use crate::client;
use crate::place::Place;
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

/// Longer than the program's own limit of an attempt.
const LIMIT: Duration = Duration::from_secs(20);

/// What the kernel answered to one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The error number, `None` for success, -1 for an error that has none.
    pub errno: Option<i32>,
    /// The error in words.
    pub error: String,
    /// From the first call to the outcome.
    pub elapsed: Duration,
}

impl Answer {
    /// Whether the error is EPERM, as for a denial by the gate.
    pub fn denied(&self) -> bool {
        self.errno == Some(libc::EPERM)
    }

    /// Whether it went through.
    pub fn passed(&self) -> bool {
        self.errno.is_none()
    }
}

/// Tries one way (`tcp`, `tcp-echo`, `udp`, `udp-connected`) in `place`.
pub fn attempt(place: &Place<'_>, way: &str, to: SocketAddr) -> Result<Answer> {
    let mut command = place.command(beside("probe")?)?;
    command.arg(way).arg(to.to_string());
    let ended = client::run(command, LIMIT)?;
    let value: Value = serde_json::from_str(&ended.stdout)
        .with_context(|| format!("probe said {:?} {:?}", ended.stdout, ended.stderr))?;
    Ok(Answer {
        errno: value["errno"]
            .as_i64()
            .map(|errno| i32::try_from(errno).unwrap_or(-1)),
        error: value["error"].as_str().unwrap_or_default().to_owned(),
        elapsed: Duration::from_micros(value["micros"].as_u64().unwrap_or_default()),
    })
}

/// A probe that continues. Dropping it kills it.
#[derive(Debug)]
pub struct Session {
    child: Guarded,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

/// How the connects of a loop ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Connections that came up.
    pub connected: u64,
    /// EPERM: the gate.
    pub denied: u64,
    /// ECONNREFUSED: nothing listens, for example because the agent is dead.
    pub refused: u64,
    /// Anything else.
    pub other: u64,
    /// The longest attempt.
    pub longest: Duration,
}

impl Tally {
    /// Whether the gate denied every connect, and there were more than `many`.
    pub fn all_denied(&self, many: u64) -> bool {
        (self.connected, self.refused, self.other) == (0, 0, 0) && self.denied > many
    }
}

impl Session {
    /// A connection that is kept up, to be used with [`Session::say`].
    pub fn hold(place: &Place<'_>, to: SocketAddr) -> Result<Self> {
        Self::start(place, "hold", to)
    }

    /// The same over a connected datagram socket. [`Session::say`] returns `errno` and the number if a datagram is
    /// denied.
    pub fn hold_udp(place: &Place<'_>, to: SocketAddr) -> Result<Self> {
        Self::start(place, "hold-udp", to)
    }

    /// Connects without end, to be ended with [`Session::tally`].
    pub fn connects(place: &Place<'_>, to: SocketAddr) -> Result<Self> {
        Self::start(place, "loop", to)
    }

    fn start(place: &Place<'_>, way: &str, to: SocketAddr) -> Result<Self> {
        let mut command = place.command(beside("probe")?)?;
        command
            .arg(way)
            .arg(to.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = Guarded::spawn(&mut command).context("cannot run probe")?;
        let stdin = child.stdin.take();
        let lines = lines(child.stdout.take());
        let session = Self {
            child,
            stdin,
            lines,
        };
        match session.line()?.as_str() {
            "up" => Ok(session),
            other => bail!("probe {way} {to}: {other}"),
        }
    }

    /// Sends a word over the connection and returns what came back.
    pub fn say(&mut self, word: &str) -> Result<String> {
        writeln!(
            self.stdin.as_mut().context("the session is over")?,
            "{word}"
        )?;
        self.line()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends a loop and returns its counts.
    pub fn tally(mut self) -> Result<Tally> {
        self.stdin = None;
        let line = self.line()?;
        let value: Value =
            serde_json::from_str(&line).with_context(|| format!("probe said {line:?}"))?;
        let count = |name: &str| {
            value[name]
                .as_u64()
                .with_context(|| format!("probe gave no {name}"))
        };
        Ok(Tally {
            connected: count("connected")?,
            denied: count("denied")?,
            refused: count("refused")?,
            other: count("other")?,
            longest: Duration::from_micros(count("longest_micros")?),
        })
    }

    fn line(&self) -> Result<String> {
        self.lines.recv_timeout(LIMIT).context("probe says nothing")
    }
}

/// The lines of a stream. A thread reads them, so that a wait for one can have a limit.
pub(crate) fn lines(stream: Option<ChildStdout>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let lines = stream
            .into_iter()
            .flat_map(|stream| BufReader::new(stream).lines());
        for line in lines.map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}
