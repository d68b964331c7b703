//! The cost of many policies, services and names for a running agent: edits, start, memory, restart, DNS.
//!
//! Owns the list of parts, and which agents are compared. `cargo xtask bench scale` runs it and `--write` puts its
//! tables into a page of the documentation. Each part is one file with one `PART`. The bench does not judge the
//! figures, because other work on the machine changes them. But a denied connect to a listed destination is counted,
//! and ends the bench with an error.

mod addresses;
mod connections;
mod edits;
mod limit;
mod names;
mod nameserver;
mod page;
mod refresh;
mod reloads;
mod restart;
mod rules;
mod site;
mod size;
mod table;
mod takeover;

use anyhow::{Result, bail};
use clap::{Args, Parser};
use egress_tests::agent;
use egress_tests::bench::page::put;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;
use table::Table;

/// Longer than an agent needs to apply all rules at once.
const LONG: Duration = Duration::from_mins(5);
/// Longer than any edit of one object may take.
const SOON: Duration = Duration::from_mins(1);

/// One part of the bench: a table of figures.
struct Part {
    /// Its name for `--only`.
    name: &'static str,
    /// The meaning of its figures: how they are measured, and their unit.
    about: &'static str,
    /// The columns after the first, which names what was measured.
    columns: &'static [&'static str],
    /// Measures one agent. Rows that are in the table when it fails are shown.
    run: fn(&Options, &Path, &mut Table) -> Result<()>,
}

/// Every part, in the order of the page.
const PARTS: [Part; 10] = [
    edits::PART,
    size::PART,
    limit::PART,
    restart::PART,
    addresses::PART,
    names::PART,
    reloads::PART,
    refresh::PART,
    takeover::PART,
    connections::PART,
];

#[derive(Parser)]
#[command(name = "cargo xtask bench scale --")]
struct Cli {
    /// Only these parts [default: all]
    #[arg(long, value_delimiter = ',', value_parser = part)]
    only: Vec<&'static str>,
    /// Measure another agent's binary too, and show its figures before this build's
    #[arg(long, value_name = "AGENT")]
    against: Option<PathBuf>,
    /// Put the tables into this page, each in place of the part's last one
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    options: Options,
}

/// The sizes of the measurements.
#[derive(Args, Clone, Debug)]
struct Options {
    /// Workloads, each with a policy of its own, and services that all of them see
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "VIEWSxSERVICES",
        default_value = "1x1000,50x1000,500x1000,4095x10"
    )]
    sizes: Vec<Size>,
    /// The same, for the part `size` only, which measures them with services of one port and of two
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "VIEWSxSERVICES",
        default_value = "1000x1000"
    )]
    large: Vec<Size>,
    /// The same, for the part `limit` only
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "VIEWSxSERVICES",
        default_value = "4000x1000"
    )]
    too_large: Vec<Size>,
    /// Workloads, each with a policy of its own, and single addresses that all of them list
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "VIEWSxADDRESSES",
        default_value = "1x1000000,2x1000000,50x40000"
    )]
    addresses: Vec<Size>,
    /// Edits of each kind
    #[arg(long, default_value_t = 10)]
    edits: usize,
    /// Edits between the two measurements of memory
    #[arg(long, default_value_t = 200)]
    reloads: usize,
    /// Names at the start; the same number is added to the running agent
    #[arg(long, value_delimiter = ',', default_value = "10000")]
    names: Vec<usize>,
    /// The same, for the part `names` only
    #[arg(long, value_delimiter = ',', default_value = "50000")]
    many_names: Vec<usize>,
    /// Seconds in which questions for names are counted
    #[arg(long, default_value_t = 300)]
    refresh: u64,
    /// Connections of the proxy at the same time
    #[arg(long, default_value_t = 20_000)]
    connections: usize,
    /// Answers that the DNS server gives in a second
    #[arg(long, default_value_t = 25_000)]
    answers: u32,
}

/// A number of views and of services that each sees.
#[derive(Clone, Copy, Debug)]
struct Size {
    views: usize,
    services: usize,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers = text.split_once('x');
        let numbers = numbers.map(|(views, services)| (views.parse(), services.parse()));
        match numbers {
            Some((Ok(views), Ok(services))) if views > 0 && services > 0 => {
                Ok(Self { views, services })
            }
            _ => Err(format!("`{text}` is not VIEWSxSERVICES, such as 50x1000")),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} views × {} services", self.views, self.services)
    }
}

fn part(name: &str) -> Result<&'static str, String> {
    let names: Vec<_> = PARTS.iter().map(|part| part.name).collect();
    let found = names.iter().find(|n| **n == name);
    found
        .copied()
        .ok_or_else(|| format!("there is {}", names.join(", ")))
}

fn main() -> ExitCode {
    egress_tests::bench::end(bench(&Cli::parse()))
}

fn bench(cli: &Cli) -> Result<()> {
    egress_tests::wait::end_waits_on_signals();
    let mut failed = Vec::new();
    for part in &PARTS {
        if !cli.only.is_empty() && !cli.only.contains(&part.name) {
            continue;
        }
        let before = cli
            .against
            .as_deref()
            .map(|other| measure(part, cli, other));
        let now = measure(part, cli, &agent::binary()?);
        let text = page::section(part, &now, before.as_ref())?;
        println!("{text}");
        if let Some(page) = &cli.write {
            put(page, "scale", part.name, &text)?;
        }
        failed.extend(
            now.trouble
                .iter()
                .map(|why| format!("{}: {why}", part.name)),
        );
        if egress_tests::wait::interrupted() {
            bail!("interrupted");
        }
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("{}", failed.join("; "))
}

/// Measures a part with one agent. The table also has what went wrong.
fn measure(part: &Part, cli: &Cli, binary: &Path) -> Table {
    eprintln!("{}: {}", part.name, binary.display());
    let mut table = Table::default();
    if let Err(error) = (part.run)(&cli.options, binary, &mut table) {
        eprintln!("{}: {error:#}", part.name);
        table.trouble.push(format!("{error:#}"));
    }
    table
}
