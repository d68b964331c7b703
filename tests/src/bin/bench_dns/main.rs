//! The agent's DNS server beside dnsdist, dnsmasq and unbound in one run: processor time of kept and of forwarded answers,
//! latency, the time until a new address is allowed, a flood beside a neighbour, and the agent replaced under load.
//!
//! Owns the list of parts, the order of the measurements, and the tables. Each server has a processor of its own and one
//! thread; dnsperf and the name server behind all of them share the other processor. All ways are measured in turn in
//! each round. Processor time is that of the server's process alone.

mod flood;
mod load;
mod peers;
mod rates;
mod replaced;
mod rig;
mod upstream;

use anyhow::{Context as _, Result};
use clap::Parser;
use egress_tests::bench::page::{put, row, spread};
use egress_tests::bench::{Precedence, machine};
use rig::{Rig, Way};
use std::path::PathBuf;
use std::process::ExitCode;

/// The figures of one measurement. One that the way does not have is `None`.
type Figures = Vec<Option<f64>>;

/// One part: a table with a column for each way.
struct Part {
    /// Its name for `--only`.
    name: &'static str,
    /// What is measured.
    about: &'static str,
    figures: &'static [&'static str],
    /// Which ways.
    ways: Ways,
    /// Measures one way once.
    run: fn(&mut Rig, Way, &Cli) -> Result<Figures>,
}

/// The ways of a part.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ways {
    Agents,
    Servers,
    All,
}

/// Every part, in the order of the page.
const PARTS: [Part; 7] = [
    rates::CACHED,
    rates::UNCACHED,
    rates::DENIED,
    rates::LATENCY,
    rates::LEASE,
    flood::PART,
    replaced::PART,
];

#[derive(Parser)]
#[command(name = "cargo xtask bench dns --")]
struct Cli {
    /// Measurements of each kind; the median is printed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Queries of each measurement
    #[arg(long, default_value_t = 300_000)]
    queries: u32,
    /// Seconds of each measurement of a flood
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Another agent to measure in turn with this one
    #[arg(long, value_name = "AGENT")]
    against: Option<PathBuf>,
    /// Only these parts [default: all]
    #[arg(long, value_delimiter = ',', value_parser = part)]
    only: Vec<&'static str>,
    /// Put the tables into this page, each in place of the part's last one
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

fn part(name: &str) -> Result<&'static str, String> {
    let names: Vec<_> = PARTS.iter().map(|part| part.name).collect();
    let found = names.iter().find(|known| **known == name);
    found
        .copied()
        .ok_or_else(|| format!("there is {}", names.join(", ")))
}

fn main() -> ExitCode {
    egress_tests::bench::end(bench(&Cli::parse()))
}

fn bench(cli: &Cli) -> Result<()> {
    egress_tests::wait::end_waits_on_signals();
    let _precedence = Precedence::take();
    let mut rig = Rig::start(cli.against.clone())?;
    for part in &PARTS {
        if !cli.only.is_empty() && !cli.only.contains(&part.name) {
            continue;
        }
        let text = measure(part, &mut rig, cli).with_context(|| part.name)?;
        println!("{text}");
        if let Some(page) = &cli.write {
            put(page, "dns", part.name, &text)?;
        }
    }
    Ok(())
}

fn measure(part: &Part, rig: &mut Rig, cli: &Cli) -> Result<String> {
    let ways: Vec<Way> = rig.ways(part.ways);
    let mut all = vec![vec![Vec::new(); part.figures.len()]; ways.len()];
    for round in 0..cli.rounds {
        for turn in 0..ways.len() {
            let at = (turn + round) % ways.len();
            let way = ways[at];
            let figures = (part.run)(rig, way, cli).with_context(|| way.name())?;
            eprintln!("{} {}: {figures:?}", part.name, way.name());
            for (values, figure) in all[at].iter_mut().zip(figures) {
                values.extend(figure);
            }
        }
    }
    let mut text = format!(
        "## {}\n\n{} Median of {} (smallest to largest). {} at the end.\n\n",
        part.name,
        part.about,
        cli.rounds,
        machine()?
    );
    text += &row("", ways.iter().map(|way| way.name().to_owned()));
    text += &row("---", ways.iter().map(|_| "---:".to_owned()));
    for (at, figure) in part.figures.iter().enumerate() {
        text += &row(figure, all.iter_mut().map(|of| spread(&mut of[at])));
    }
    Ok(text)
}
