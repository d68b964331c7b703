//! Clients inside the gate that connect again and again: one reports when a destination became allowed or denied, the
//! other counts how often a listed destination was denied.
//!
//! Owns how the modes `when` and `watch` of the program `probe` are run and read. A connect that is not denied sends at
//! most a SYN, because nothing listens at the destinations.

use crate::agent::beside;
use crate::child::Guarded;
use crate::place::Place;
use crate::probe::lines;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// The time of `CLOCK_MONOTONIC`, which all processes share.
pub fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A client that dials until the gate gives the requested verdict. Dropping it kills it.
#[derive(Debug)]
pub struct Dialer {
    // Dropped first, because the client ends with its input.
    to: ChildStdin,
    from: Receiver<String>,
    _child: Guarded,
}

impl Dialer {
    /// Starts one.
    pub fn start(place: &Place<'_>) -> Result<Self> {
        let (child, to, from) = run(place, &["when".to_owned()])?;
        Ok(Self {
            to,
            from,
            _child: child,
        })
    }

    /// Starts to dial `count` addresses from `first` on, each until it is allowed.
    pub fn until_allowed(&mut self, first: SocketAddr, count: usize) -> Result<()> {
        Ok(writeln!(self.to, "allowed {first} {count}")?)
    }

    /// The same, until each is denied.
    pub fn until_denied(&mut self, first: SocketAddr, count: usize) -> Result<()> {
        Ok(writeln!(self.to, "denied {first} {count}")?)
    }

    /// When the last one had the verdict, by [`now`].
    pub fn at(&mut self, limit: Duration) -> Result<Duration> {
        let line = self.from.recv_timeout(limit);
        let line = line.with_context(|| format!("not within {limit:?}: the verdict asked for"))?;
        Ok(Duration::from_nanos(line.trim().parse()?))
    }
}

/// A client that connects to each listed destination once in an interval. Dropping it kills it.
#[derive(Debug)]
pub struct Watch {
    to: Option<ChildStdin>,
    from: Receiver<String>,
    _child: Guarded,
}

/// What a [`Watch`] saw.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Watched {
    /// Connects.
    pub tries: u64,
    /// Connects that the gate denied.
    pub denied: u64,
    /// Connects that failed otherwise. Nothing listens there, so `ECONNREFUSED` is not a failure.
    pub failed: u64,
    /// The longest time from a denied connect to the next one that was not denied.
    pub longest: Duration,
}

impl Watched {
    /// The counts of two clients together, and the longer time.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            tries: self.tries + other.tries,
            denied: self.denied + other.denied,
            failed: self.failed + other.failed,
            longest: self.longest.max(other.longest),
        }
    }
}

impl Watch {
    /// Starts one that tries every destination each time.
    pub fn start(place: &Place<'_>, every: Duration, to: &[SocketAddr]) -> Result<Self> {
        let mut arguments = vec!["watch".to_owned(), every.as_millis().to_string()];
        arguments.extend(to.iter().map(SocketAddr::to_string));
        let (child, to, from) = run(place, &arguments)?;
        Ok(Self {
            to: Some(to),
            from,
            _child: child,
        })
    }

    /// Ends it.
    pub fn end(mut self) -> Result<Watched> {
        self.to = None;
        let line = self.from.recv_timeout(Duration::from_secs(30))?;
        let value: Value = serde_json::from_str(&line)?;
        let count = |name: &str| {
            let number = value[name].as_u64();
            number.with_context(|| format!("no {name}: {line}"))
        };
        Ok(Watched {
            tries: count("tries")?,
            denied: count("denied")?,
            failed: count("failed")?,
            longest: Duration::from_micros(count("longest_micros")?),
        })
    }
}

fn run(place: &Place<'_>, arguments: &[String]) -> Result<(Guarded, ChildStdin, Receiver<String>)> {
    let mut command = place.command(beside("probe")?)?;
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = Guarded::spawn(&mut command).context("cannot run probe")?;
    let to = child.stdin.take().context("a pipe")?;
    let from = lines(child.stdout.take());
    Ok((child, to, from))
}
