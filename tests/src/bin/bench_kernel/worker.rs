//! The processes that make the calls, one for each configuration, in batches.

use crate::work::Call;
use anyhow::{Context as _, Result, bail};
use egress_tests::cgroup::Cgroup;
use egress_tests::child::Guarded;
use egress_tests::netns::NetNs;
use egress_tests::place::Place;
use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

/// Nanoseconds of one call.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Sample {
    pub wall: f64,
    pub cpu: f64,
}

/// What is between the calls and the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Config {
    None,
    Hooks,
    Nft,
}

impl Config {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Hooks => "hooks",
            Self::Nft => "nft",
        }
    }
}

/// A process that makes a batch of calls on request.
pub struct Worker {
    _child: Guarded,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    /// A worker that makes its calls in a network namespace, with its sockets in a cgroup.
    pub fn below(netns: &NetNs, cgroup: &Cgroup, call: Call, spread: u32) -> Result<Self> {
        let place = Place {
            cgroup: None,
            netns: Some(netns),
            resolver: None,
        };
        let mut command = place.command(env::current_exe()?)?;
        command
            .args(["--measure", &call.to_string()])
            .args(["--spread", &spread.to_string()])
            .arg("--join")
            .arg(cgroup.path());
        Self::start(command)
    }

    /// Starts it, and makes a first batch to warm up.
    fn start(mut command: Command) -> Result<Self> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Guarded::spawn(command)?;
        let stdin = child.stdin.take().context("a worker has an input")?;
        let stdout = child.stdout.take().context("a worker has an output")?;
        let mut worker = Self {
            _child: child,
            stdin,
            stdout: BufReader::new(stdout),
        };
        worker.batch()?;
        Ok(worker)
    }

    /// Makes one batch. Returns the time of one call.
    pub fn batch(&mut self) -> Result<Sample> {
        self.stdin.write_all(b"\n")?;
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        let mut numbers = line.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(wall)), Some(Ok(cpu))) => Ok(Sample { wall, cpu }),
            _ => bail!("a worker ended early; it says why above"),
        }
    }
}
