//! A running probe: a workload that counts what becomes of its tries.
//!
//! Owns the process. What it tries is in `bin/bench_probe.rs`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::agent::beside;
use crate::place::Place;

/// A probe at work. Dropping it kills it.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    out: BufReader<ChildStdout>,
}

/// Counts by `WHAT.RESULT`.
pub type Counts = BTreeMap<String, u64>;

/// The command of a probe in a place.
pub fn command(place: &Place<'_>, arguments: &[&str]) -> Result<Command> {
    let mut command = place.command(beside("bench_probe")?)?;
    command.args(arguments);
    Ok(command)
}

impl Probe {
    /// Starts one and waits until it is at work.
    pub fn start(place: &Place<'_>, arguments: &[&str]) -> Result<Self> {
        let mut child = command(place, arguments)?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run the probe")?;
        let out = child.stdout.take().context("the probe has a pipe")?;
        let mut probe = Self {
            child,
            out: BufReader::new(out),
        };
        let mut line = String::new();
        probe.out.read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("the probe did not start: {line}");
        }
        Ok(probe)
    }

    /// Tells it to end, and gives its counts.
    pub fn stop(mut self) -> Result<Counts> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.out.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the probe: {status}");
        }
        parse(&text)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `NAME=COUNT ...`.
pub fn parse(text: &str) -> Result<Counts> {
    let pair = |word: &str| -> Result<(String, u64)> {
        let (name, count) = word
            .split_once('=')
            .with_context(|| format!("no count: {word}"))?;
        Ok((name.to_owned(), count.parse()?))
    };
    text.split_whitespace().map(pair).collect()
}
