//! The cost of the hooks: the same calls with and without them, interleaved, compared with nft sets of the same size or
//! with the hooks of another agent's binary.
//!
//! Owns the measurement. `cargo xtask bench kernel` runs it. Only the calls are timed, so the profile of this program
//! does not matter. The BPF programs are always optimised.

mod against;
mod setup;
mod work;
mod worker;

use anyhow::Result;
use clap::Parser;
use setup::{Kind, Setup};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use work::{CALLS, Call, serve};
use worker::{Config, Sample, Worker};

#[derive(Parser)]
struct Cli {
    /// Rounds. In each round, every configuration has one batch of calls. Medians are over the rounds.
    #[arg(long, default_value_t = 401)]
    rounds: usize,
    /// Sizes of the tables.
    #[arg(long, value_delimiter = ',', default_value = "10,1000,100000,1000000")]
    entries: Vec<u32>,
    /// Print the time of each program, by the kernel's own statistics.
    #[arg(long)]
    programs: bool,
    /// Only these calls.
    #[arg(long, value_delimiter = ',', default_values_t = CALLS)]
    calls: Vec<Call>,
    /// Leave out nft.
    #[arg(long)]
    no_nft: bool,
    /// Compare with the hooks of another agent's binary instead, in the same run.
    #[arg(long, value_name = "AGENT")]
    against: Option<PathBuf>,
    /// How often both agents are started for each size, with --against. Where their programs and tables are in memory
    /// moves a result more than the rounds of one start differ.
    #[arg(long, default_value_t = 3)]
    starts: usize,
    /// Policies of both agents, with --against. All but that of the calls are small.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    policies: Vec<u32>,
    /// The most entries that the other agent gets.
    #[arg(long)]
    against_entries: Option<u32>,
    /// The most policies that the other agent gets.
    #[arg(long, default_value_t = u32::MAX)]
    against_policies: u32,
    /// Measure in this process. Its parent sets this.
    #[arg(long, hide = true, requires = "spread")]
    measure: Option<Call>,
    /// Destinations.
    #[arg(long, hide = true)]
    spread: Option<u32>,
    /// Cgroup that the measured sockets are made in.
    #[arg(long, hide = true)]
    join: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match (cli.measure, cli.spread) {
        (Some(call), Some(spread)) => serve(call, spread, cli.join.as_deref()),
        _ => match &cli.against {
            Some(other) => against::bench(&cli, other),
            None => bench(&cli),
        },
    };
    egress_tests::bench::end(done)
}

fn bench(cli: &Cli) -> Result<()> {
    let mut setup = Setup::new(!cli.no_nft)?;
    introduce(cli.rounds)?;
    for kind in [Kind::Addresses, Kind::Networks, Kind::Mixed] {
        let limit = match kind {
            Kind::Addresses => setup.tables.in_use()[0].limit,
            Kind::Networks | Kind::Mixed => setup.tables.in_use()[1].limit,
        };
        for entries in &cli.entries {
            let entries = (*entries).min(u32::try_from(limit)?);
            let spread = setup.fill(kind, entries)?;
            println!("\n{}, {entries} entries", kind.name());
            for call in &cli.calls {
                compare(&setup, *call, spread, cli)?;
            }
        }
    }
    Ok(())
}

/// Prints the machine and the meaning of the columns.
fn introduce(rounds: usize) -> Result<()> {
    println!("{}", egress_tests::bench::machine()?);
    println!(
        "ns of one call: median cpu (min to max), median wall; then what is added to it, pair by \
         pair: median (middle half), share; {rounds} rounds, interleaved"
    );
    Ok(())
}

fn compare(setup: &Setup, call: Call, spread: u32, cli: &Cli) -> Result<()> {
    let configs = [Config::None, Config::Hooks, Config::Nft];
    let configs = &configs[..if cli.no_nft { 2 } else { 3 }];
    let mut workers = Vec::new();
    for config in configs {
        workers.push((setup.worker(call, spread, *config)?, Vec::new()));
    }
    for round in 0..cli.rounds {
        // Each goes first equally often, because one may have to free memory that another left.
        for turn in 0..configs.len() {
            let (worker, samples) = &mut workers[(round + turn) % configs.len()];
            samples.push(worker.batch()?);
        }
    }
    let none = workers[0].1.clone();
    for (config, (_, samples)) in configs.iter().zip(&workers) {
        let name = match config {
            Config::None => call.name(),
            Config::Hooks | Config::Nft => "",
        };
        let mut line = format!("  {name:<20} {:<5} {}", config.name(), shown(samples));
        if *config != Config::None {
            let pairs = || samples.iter().zip(&none);
            let added = Spread::of(pairs().map(|(s, n)| s.cpu - n.cpu));
            let share = Spread::of(pairs().map(|(s, n)| 100.0 * (s.cpu - n.cpu) / n.cpu));
            write!(
                line,
                "  cpu {:+.0} ns ({:+.0} to {:+.0}), {:+.1} %",
                added.median, added.low, added.high, share.median
            )?;
        }
        println!("{line}");
    }
    drop(workers);
    if cli.programs {
        programs(call, &mut setup.worker(call, spread, Config::Hooks)?)?;
    }
    Ok(())
}

/// Runs and time of each program in one more sample (`kernel.bpf_stats_enabled`).
fn programs(call: Call, worker: &mut Worker) -> Result<()> {
    let _stats = aya::sys::enable_stats(aya::sys::Stats::RunTime)?;
    let read = || -> Result<BTreeMap<u32, (String, u64, Duration)>> {
        let mut all = BTreeMap::new();
        for info in aya::programs::loaded_programs() {
            let info = info?;
            let name = info.name_as_str().unwrap_or_default().to_owned();
            all.insert(info.id(), (name, info.run_count(), info.run_time()));
        }
        Ok(all)
    };
    let before = read()?;
    worker.batch()?;
    for (id, (name, runs, time)) in read()? {
        let (runs_before, time_before) = before
            .get(&id)
            .map_or((0, Duration::ZERO), |(_, r, t)| (*r, *t));
        let runs = runs - runs_before;
        // Programs of other gates on this machine run too, but less often.
        if runs >= u64::from(call.times()) {
            let each = time.saturating_sub(time_before).as_nanos() / u128::from(runs);
            println!("  {:<20}   {name}: {runs} runs of {each} ns", "");
        }
    }
    Ok(())
}

/// The median, and the bounds of the middle half.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| values[(values.len() - 1) * quarter / 4];
        Self {
            low: at(1),
            median: at(2),
            high: at(3),
        }
    }
}

fn shown(samples: &[Sample]) -> String {
    let cpu = Spread::of(samples.iter().map(|s| s.cpu));
    let wall = Spread::of(samples.iter().map(|s| s.wall));
    let bounds = samples.iter().fold((f64::MAX, 0.0_f64), |(min, max), s| {
        (min.min(s.cpu), max.max(s.cpu))
    });
    format!(
        "{:>7.0} ({:.0} to {:.0}), wall {:>7.0}",
        cpu.median, bounds.0, bounds.1, wall.median
    )
}
