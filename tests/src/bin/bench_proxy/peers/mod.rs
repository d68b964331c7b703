//! The agent beside nginx, haproxy and Envoy in one run: HTTP/1.1, HTTP/2, TLS passed through by its server name, the
//! access log, timeouts, memory.
//!
//! Owns the list of parts, the order of the measurements, and the tables. Each proxy has a processor of its own and one
//! thread for connections; clients and origins share the other processor. All ways are measured in turn in each round.
//! Processor time is that of the proxy's process alone.

mod config;
mod http;
mod idle;
mod rig;
mod timeouts;
mod tls;

use crate::Cli;
use anyhow::{Context as _, Result};
use egress_tests::bench::machine;
use egress_tests::bench::page::{put, row, spread};
use rig::{Rig, Way};

/// The figures of one measurement. One that the way does not have is `None`.
type Figures = Vec<Option<f64>>;

/// One part: a table with a column for each way.
struct Part {
    /// Its name for `--only`.
    name: &'static str,
    /// What is measured.
    about: &'static str,
    /// The ways besides the agents.
    peers: &'static [&'static str],
    figures: &'static [&'static str],
    /// Once instead of in each round.
    once: bool,
    /// Measures one way once.
    run: fn(&Rig, &Way, &Cli) -> Result<Figures>,
}

/// Every part, in the order of the page.
const PARTS: [Part; 9] = [
    http::HTTP1,
    idle::PART,
    http::HTTP2,
    http::ACCESS_LOG,
    tls::CONNECTIONS,
    tls::UP,
    tls::DOWN,
    tls::MESSAGES,
    timeouts::PART,
];

pub(crate) fn part(name: &str) -> Result<&'static str, String> {
    let names: Vec<_> = PARTS.iter().map(|part| part.name).collect();
    let found = names.iter().find(|known| **known == name);
    found
        .copied()
        .ok_or_else(|| format!("there is {}", names.join(", ")))
}

/// Measures all parts and prints their tables.
pub(crate) fn bench(cli: &Cli) -> Result<()> {
    egress_tests::wait::end_waits_on_signals();
    let rig = Rig::start(cli.against.clone())?;
    for part in &PARTS {
        if !cli.only.is_empty() && !cli.only.contains(&part.name) {
            continue;
        }
        let text = measure(part, &rig, cli).with_context(|| part.name)?;
        println!("{text}");
        if let Some(page) = &cli.write {
            put(page, "proxy", part.name, &text)?;
        }
    }
    Ok(())
}

fn measure(part: &Part, rig: &Rig, cli: &Cli) -> Result<String> {
    let ways: Vec<&Way> = rig.ways(part.peers).collect();
    let rounds = if part.once { 1 } else { cli.rounds };
    let none = || vec![Vec::new(); part.figures.len()];
    let mut all: Vec<Vec<Vec<f64>>> = ways.iter().map(|_| none()).collect();
    for round in 0..rounds {
        for turn in 0..ways.len() {
            let at = (turn + round) % ways.len();
            let way = ways[at];
            let figures = (part.run)(rig, way, cli).with_context(|| way.name)?;
            eprintln!("{} {}: {figures:?}", part.name, way.name);
            for (values, figure) in all[at].iter_mut().zip(figures) {
                values.extend(figure);
            }
        }
    }
    let unit = if rounds == 1 {
        "One measurement.".to_owned()
    } else {
        format!("Median of {rounds} (smallest to largest).")
    };
    let mut text = format!(
        "## {}\n\n{} {unit} {} at the end.\n\n",
        part.name,
        part.about,
        machine()?
    );
    text += &row("", ways.iter().map(|way| way.name.to_owned()));
    text += &row("---", ways.iter().map(|_| "---:".to_owned()));
    for (at, figure) in part.figures.iter().enumerate() {
        text += &row(figure, all.iter_mut().map(|of| spread(&mut of[at])));
    }
    Ok(text)
}
