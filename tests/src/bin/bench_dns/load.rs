//! The clients, dnsperf for rates and our own one for latencies: how they are run, and what they report.

use anyhow::{Context as _, Result, ensure};
use egress_tests::agent::beside;
use egress_tests::client;
use egress_tests::place::Place;
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_mins(5);

/// A run of dnsperf.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    /// Its queries.
    pub names: &'a Path,
    pub to: SocketAddr,
    /// Sockets.
    pub clients: u32,
    /// Queries at a time.
    pub at_once: u32,
    /// How many, or for how long.
    pub most: Most,
    /// Queries in a second.
    pub rate: Option<u32>,
}

/// When a run ends.
#[derive(Clone, Copy)]
pub enum Most {
    /// After so many runs through the file.
    Runs(u32),
    Seconds(u32),
}

/// What a run reports.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub sent: f64,
    pub lost: f64,
    /// Answers with NOERROR.
    pub resolved: f64,
    pub each_second: f64,
}

/// An answer to [`one_by_one`].
#[derive(Clone, Copy, Debug)]
pub struct Got {
    pub address: Ipv4Addr,
    /// When it came, by `CLOCK_MONOTONIC`.
    pub at: Duration,
    /// How long that took, in µs.
    pub took: f64,
}

/// Asks for the names with this letter, one query after the other. `None` is an answer that did not come.
pub fn one_by_one(
    place: &Place<'_>,
    to: SocketAddr,
    letter: char,
    count: u32,
    pause: Duration,
) -> Result<Vec<Option<Got>>> {
    let mut command = place.command(beside("asker")?)?;
    let pause = pause.as_micros().to_string();
    let (to, letter) = (to.to_string(), letter.to_string());
    command.args(["each", &to, &letter, &count.to_string(), &pause]);
    let ended = client::run(command, LIMIT)?;
    ensure!(ended.exit == 0, "{}", ended.stderr);
    let got = |line: &str| -> Result<Option<Got>> {
        let words: Vec<&str> = line.split(' ').collect();
        let [address, at, took] = words[..] else {
            return Ok(None);
        };
        Ok(Some(Got {
            address: address.parse()?,
            at: Duration::from_nanos(at.parse()?),
            took: took.parse::<f64>()? / 1e3,
        }))
    };
    ended.stdout.lines().map(got).collect()
}

/// Latencies.
pub struct Latencies(Vec<f64>);

impl Latencies {
    pub fn of(all: impl IntoIterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = all.into_iter().collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// The latency that this part of the answers did not exceed.
    pub fn at(&self, part: f64) -> Option<f64> {
        let last = self.0.len().checked_sub(1)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a place in the list"
        )]
        let at = (last as f64 * part).round() as usize;
        self.0.get(at).copied()
    }
}

/// Writes a file of queries for `count` names `LETTERn.example`.
pub fn names(folder: &Path, letter: char, count: u32) -> Result<()> {
    let mut text = String::new();
    for n in 0..count {
        writeln!(text, "{letter}{n}.example A")?;
    }
    Ok(fs::write(folder.join(letter.to_string()), text)?)
}

impl Load<'_> {
    /// The arguments.
    pub fn arguments(&self) -> Vec<String> {
        let mut all = vec!["-d".to_owned(), self.names.display().to_string()];
        let mut add = |flag: &str, value: String| all.extend([flag.to_owned(), value]);
        add("-s", self.to.ip().to_string());
        add("-p", self.to.port().to_string());
        add("-c", self.clients.to_string());
        add("-q", self.at_once.to_string());
        add("-T", "1".to_owned());
        add("-t", "1".to_owned());
        match self.most {
            Most::Runs(runs) => add("-n", runs.to_string()),
            Most::Seconds(seconds) => add("-l", seconds.to_string()),
        }
        if let Some(rate) = self.rate {
            add("-Q", rate.to_string());
        }
        all
    }

    /// Runs it to its end.
    pub fn run(&self, place: &Place<'_>) -> Result<Report> {
        let mut command = place.command("dnsperf")?;
        command.args(self.arguments());
        let ended = client::run(command, LIMIT)?;
        ensure!(ended.exit == 0, "{}{}", ended.stdout, ended.stderr);
        read(&ended.stdout).with_context(|| format!("{}{}", ended.stdout, ended.stderr))
    }
}

/// Reads what dnsperf prints.
pub fn read(text: &str) -> Result<Report> {
    let number = |label: &str| -> Option<f64> {
        let line = text.lines().find(|line| line.contains(label))?;
        line.split_once(label)?
            .1
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    Ok(Report {
        sent: number("Queries sent:").context("no count")?,
        lost: number("Queries lost:").context("no losses")?,
        resolved: number("NOERROR").unwrap_or(0.0),
        each_second: number("Queries per second:").context("no rate")?,
    })
}
