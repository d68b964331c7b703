//! The cost of many rules for a running agent: of each denial and of a changed object, and the time until a new pod is
//! governed and a new rule is in force while a workload dials random destinations.
//!
//! Owns the measurement. `cargo xtask bench rules` runs it; `$EGRESS_AGENT_BIN` names another agent to measure. The
//! bench does not judge the figures, because other work on the machine changes them.

mod core;
mod fleet;
mod together;

use anyhow::{Context as _, Result};
use clap::Parser;
use egress_tests::client::run;
use egress_tests::{load, wait_until};
use fleet::{Fleet, Size};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// The time limit for the agent to apply all rules at once.
const LONG: Duration = Duration::from_mins(10);
/// Unlisted destinations that are dialled in a second.
const RATE: &str = "200";

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    size: Size,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Changes of one object.
    #[arg(long, default_value_t = 20)]
    changes: usize,
}

fn main() -> ExitCode {
    egress_tests::bench::end(bench(&Cli::parse()))
}

fn bench(cli: &Cli) -> Result<()> {
    let Size { services, policies } = cli.size;
    println!("{services} services of names, as many routes, {policies} policies");
    let mut fleet = Fleet::start(cli.size)?;
    let time = Duration::from_secs(cli.seconds);
    let idle = idle(&mut fleet, time)?;
    println!("idle: {:.1} % of a processor", idle * 100.0);
    denials(&mut fleet, time, idle)?;
    changes(&mut fleet, cli.changes, idle)?;
    together::bench(&fleet, cli.changes)
}

/// The share of a processor that the idle agent uses.
fn idle(fleet: &mut Fleet, time: Duration) -> Result<f64> {
    let before = fleet.settled()?;
    thread::sleep(time);
    let spent = fleet.cpu()?.saturating_sub(before);
    Ok(spent.as_secs_f64() / time.as_secs_f64())
}

fn denials(fleet: &mut Fleet, time: Duration, idle: f64) -> Result<()> {
    let (events, logged) = (fleet.events()?, fleet.denials_logged()?);
    let before = fleet.cpu()?;
    let seconds = time.as_secs().to_string();
    let flood = ["flood", "--rate", RATE, "--seconds", &seconds, "--spread"];
    let command = load::command(&fleet.workload(0), &[&flood[..], &["--stream"]].concat())?;
    let ended = run(command, time + Duration::from_secs(30))?;
    let mut last = 0;
    let events = wait_until("every event is read", LONG, || {
        thread::sleep(Duration::from_millis(500));
        let events = fleet.events().ok()?;
        let still = events == std::mem::replace(&mut last, events);
        still.then_some(events)
    })? - events;
    let spent = fleet.settled()?.saturating_sub(before).as_secs_f64();
    let spent = (spent - idle * time.as_secs_f64()).max(0.0);
    println!(
        "denials: {}; {events} events, {} lines, {:.1} us of the agent's processor time each",
        ended.stdout.trim(),
        fleet.denials_logged()? - logged,
        spent * 1e6 / f64::from(u32::try_from(events)?.max(1))
    );
    Ok(())
}

fn changes(fleet: &mut Fleet, changes: usize, idle: f64) -> Result<()> {
    let own = core::changes(fleet, changes)?;
    let (before, begin) = (fleet.settled()?, Instant::now());
    let mut took = Vec::new();
    for n in 0..changes {
        took.push(fleet.change(n)?);
    }
    let spent = fleet.settled()?.saturating_sub(before);
    // The refresh of all names continues during the changes.
    let spent = spent.saturating_sub(begin.elapsed().mul_f64(idle)) / u32::try_from(changes)?;
    took.sort_unstable();
    let median = took.get(changes / 2).context("a change")?;
    println!(
        "one changed object: {spent:.1?} of the agent's processor time, {own:.1?} of the core's own \
         (x{:.1}); applied after {median:.1?}",
        spent.as_secs_f64() / own.as_secs_f64()
    );
    Ok(())
}
