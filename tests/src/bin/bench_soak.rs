//! Millions of requests of all kinds while the rules change every second: answers that no version of the rules gives,
//! and growth of the agent's memory or descriptors, end it with an error.
//!
//! Owns the limits. `egress_tests::soak` arranges, and `cargo xtask bench soak` runs it.

use anyhow::{Result, ensure};
use clap::Parser;
use egress_tests::bench::{float, machine};
use egress_tests::soak::{Options, run};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "cargo xtask bench soak --")]
struct Cli {
    /// Requests
    #[arg(long, default_value_t = 2_000_000)]
    requests: u64,
    /// Milliseconds between two changes of the rules
    #[arg(long, default_value_t = 1000)]
    change: u64,
    /// Another agent's binary
    #[arg(long, value_name = "AGENT")]
    agent: Option<PathBuf>,
}

/// Resident memory may differ by so much between the second and the last tenth of the time: the allocator's noise.
const NOISE: u64 = 4 << 20;

fn main() -> ExitCode {
    egress_tests::wait::end_waits_on_signals();
    egress_tests::bench::end(bench(&Cli::parse()))
}

fn bench(cli: &Cli) -> Result<()> {
    let outcome = run(&Options {
        binary: cli.agent.clone(),
        requests: cli.requests,
        change: Duration::from_millis(cli.change),
        rotation: Duration::from_secs(10),
        limit: Duration::from_hours(3),
    })?;
    let clients = &outcome.clients;
    println!("{}", machine()?);
    println!("{clients:#}");
    let cpu = outcome.cpu.as_secs_f64() * 1e6 / float(cli.requests);
    println!(
        "{} versions of the rules; {cpu:.1} µs of the agent's processor time for each request; {} lines of the access log",
        outcome.versions, outcome.lines
    );
    let [first, second, mirror] = outcome.served;
    println!("served: first {first}, second {second}, mirror {mirror}");
    let tenths: Vec<String> = (0..10)
        .map(|tenth| format!("{:.1}", float(outcome.resident(tenth)) / 1e6))
        .collect();
    println!("resident MB, by tenths of the time: {}", tenths.join(" "));
    let [before, after] = outcome.descriptors;
    println!(
        "descriptors: {before} before, at most {} meanwhile, {after} after",
        outcome.most_descriptors()
    );
    ensure!(outcome.wrong() == 0, "{} wrong answers", outcome.wrong());
    ensure!(after <= before, "descriptors were left open");
    let (early, late) = (outcome.resident(1), outcome.resident(9));
    ensure!(
        late <= early + early / 20 + NOISE,
        "resident memory grew from {early} to {late} bytes"
    );
    ensure!(outcome.unlogged() == 0, "requests without a line");
    Ok(())
}
