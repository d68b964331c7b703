//! The API server is away for an hour: no leak, no failed listed flow, and what changed meanwhile is in force within a
//! second after its return.
//!
//! Owns the limits. `egress_tests::outage` arranges, and `cargo xtask bench outage` runs it.

use anyhow::{Result, ensure};
use clap::Parser;
use egress_tests::bench::{float, machine};
use egress_tests::outage::{Options, Outcome, Way, run};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(name = "cargo xtask bench outage --")]
struct Cli {
    /// Minutes for which the server is away
    #[arg(long, default_value_t = 60.0)]
    minutes: f64,
    /// Milliseconds between two tries of each kind of traffic
    #[arg(long, default_value_t = 20)]
    pause: u64,
    /// Another agent's binary
    #[arg(long, value_name = "AGENT")]
    agent: Option<PathBuf>,
}

/// Parts of the long outage. It ends with a server that hangs.
const PARTS: u32 = 12;
/// After the return, changes must be in force within this.
const BACK: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    egress_tests::wait::end_waits_on_signals();
    egress_tests::bench::end(bench(&Cli::parse()))
}

fn bench(cli: &Cli) -> Result<()> {
    println!("{}", machine()?);
    let part = Duration::from_secs_f64(cli.minutes * 60.0) / PARTS;
    let way = |n: u32| {
        if n.is_multiple_of(2) {
            Way::Refuses
        } else {
            Way::Hangs
        }
    };
    let long: Vec<_> = (0..PARTS).map(|n| (way(n), part)).collect();
    // A second, short one ends with a server that refuses connections.
    let short = vec![(Way::Hangs, part / 5), (Way::Refuses, part / 5)];
    for parts in [long, short] {
        let outcome = run(&Options {
            binary: cli.agent.clone(),
            parts,
            pause: Duration::from_millis(cli.pause),
            look: Duration::from_secs(1),
        })?;
        show(&outcome);
        ensure!(
            outcome.leaks() == 0,
            "{} leaks: {:?}",
            outcome.leaks(),
            outcome.flows
        );
        ensure!(
            outcome.failed() == 0,
            "{} listed flows failed: {:?} {}",
            outcome.failed(),
            outcome.flows,
            outcome.http
        );
        let slowest = outcome.in_force.into_iter().max().unwrap_or_default();
        ensure!(slowest < BACK, "changes are in force after {slowest:?}");
    }
    Ok(())
}

fn show(outcome: &Outcome) {
    let mut whole = Duration::ZERO;
    for way in [Way::Refuses, Way::Hangs] {
        let parts = outcome.parts.iter().filter(|part| part.way == way);
        let (mut time, mut refused, mut unanswered) = (Duration::ZERO, 0, 0);
        for part in parts {
            time += part.time;
            refused += part.refused;
            unanswered += part.unanswered;
        }
        whole += time;
        let minutes = time.as_secs_f64() / 60.0;
        println!(
            "{way:?}: {minutes:.1} min, a minute {:.1} refused connections and {:.1} requests without an answer",
            float(refused) / minutes,
            float(unanswered) / minutes
        );
    }
    println!(
        "{} listed flows passed, {} failed; {} unlisted flows denied, {} leaks",
        outcome.passed(),
        outcome.failed(),
        outcome.denied(),
        outcome.leaks()
    );
    let [created, deleted] = outcome.in_force.map(|time| time.as_millis());
    println!("after the return in force within: created {created} ms, deleted {deleted} ms");
    let resident = &outcome.resident;
    let mb = |bytes: Option<&u64>| float(bytes.copied().unwrap_or_default()) / 1e6;
    println!(
        "agent: {:.2} % of a core, resident {:.1} MB before, at most {:.1}, {:.1} after",
        outcome.cpu.as_secs_f64() / whole.as_secs_f64() * 100.0,
        mb(resident.first()),
        mb(resident.iter().max()),
        mb(resident.last())
    );
    println!("{:?} {}", outcome.flows, outcome.http);
}
