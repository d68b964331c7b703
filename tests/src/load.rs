//! A running load: a workload that counts the results of its attempts.
//!
//! Owns the process. `bin/load.rs` has the attempts.

use crate::agent::beside;
use crate::child::Guarded;
use crate::place::Place;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{ChildStdout, Command, Stdio};

/// A running load. Dropping it kills it.
#[derive(Debug)]
pub struct Load {
    child: Guarded,
    out: BufReader<ChildStdout>,
}

/// Counts by `WHAT.RESULT`.
pub type Counts = BTreeMap<String, u64>;

/// The command of a load in a place.
pub fn command(place: &Place<'_>, arguments: &[&str]) -> Result<Command> {
    let mut command = place.command(beside("load")?)?;
    command.args(arguments);
    Ok(command)
}

impl Load {
    /// Starts a load, and waits until it works.
    pub fn start(place: &Place<'_>, arguments: &[&str]) -> Result<Self> {
        let mut command = command(place, arguments)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Guarded::spawn(&mut command).context("cannot run the load")?;
        let out = child.stdout.take().context("the load has a pipe")?;
        let mut load = Self {
            child,
            out: BufReader::new(out),
        };
        let mut line = String::new();
        load.out.read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("the load did not start: {line}");
        }
        Ok(load)
    }

    /// Ends it. Returns its counts.
    pub fn stop(mut self) -> Result<Counts> {
        drop(self.child.stdin.take());
        let mut text = String::new();
        self.out.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the load: {status}");
        }
        parse(&text)
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
