//! A client inside the gate that dials one destination until the gate lets it: says when.
//!
//! Reads a destination a line and answers with the time at which a connect was not denied any more,
//! of the clock that all processes share.

use anyhow::{Context as _, Result, bail};
use egress_tests::child::Guarded;
use egress_tests::place::Place;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

/// Between two tries.
const PAUSE: Duration = Duration::from_micros(200);
/// For a handshake that the gate lets through and nobody answers.
const HANDSHAKE: Duration = Duration::from_millis(1);

/// CLOCK_MONOTONIC.
pub fn now() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The client itself.
pub fn serve() -> Result<()> {
    for line in io::stdin().lines() {
        let to: SocketAddr = line?.parse()?;
        while let Err(error) = TcpStream::connect_timeout(&to, HANDSHAKE) {
            if error.raw_os_error() != Some(libc::EPERM) {
                break;
            }
            thread::sleep(PAUSE);
        }
        println!("{}", now().as_nanos());
        io::stdout().flush()?;
    }
    Ok(())
}

/// A running client.
pub struct Dialer {
    // Dropped first: the client ends with its input.
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    _child: Guarded,
}

impl Dialer {
    /// Starts one.
    pub fn start(place: &Place<'_>) -> Result<Self> {
        let mut command = place.command(std::env::current_exe()?)?;
        command
            .arg("dial")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = Guarded::spawn(&mut command)?;
        Ok(Self {
            to: child.stdin.take().context("a pipe")?,
            from: BufReader::new(child.stdout.take().context("a pipe")?),
            _child: child,
        })
    }

    /// Begins to dial.
    pub fn dial(&mut self, to: SocketAddr) -> Result<()> {
        Ok(writeln!(self.to, "{to}")?)
    }

    /// When the gate let it.
    pub fn let_at(&mut self) -> Result<Duration> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("the client ended");
        }
        Ok(Duration::from_nanos(line.trim().parse()?))
    }
}
