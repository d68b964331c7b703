//! From a change in the Kubernetes API to its effect on a workload, with many objects and workloads, and what the agent
//! needs then.
//!
//! Owns the bounds. `egress_tests::crowd` arranges, and `cargo xtask bench api` runs it.

use anyhow::{Result, ensure};
use clap::Parser;
use egress_tests::bench::{Precedence, anonymous_of, float, machine};
use egress_tests::crowd::{Crowd, Size, percentile};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Parser)]
#[command(name = "cargo xtask bench api --")]
struct Cli {
    /// `ServiceEntry`s, one run for each number
    #[arg(long, default_values_t = [1000, 5000])]
    entries: Vec<usize>,
    /// Pods of the node
    #[arg(long, default_value_t = 110)]
    workloads: usize,
    /// An object is created and deleted so often
    #[arg(long, default_value_t = 150)]
    edits: usize,
    /// Pods that are created back to back
    #[arg(long, default_value_t = 100)]
    burst: usize,
    /// Another agent's binary
    #[arg(long, value_name = "AGENT")]
    agent: Option<PathBuf>,
}

/// The number of `ServiceEntry`s for which there are bounds.
const BOUNDED: usize = 1000;
/// For 99 of 100 edits.
const IN_FORCE: Duration = Duration::from_millis(200);
/// Resident memory.
const MEMORY: u64 = 80_000_000;

fn main() -> ExitCode {
    egress_tests::wait::end_waits_on_signals();
    egress_tests::bench::end(bench(&Cli::parse()))
}

fn bench(cli: &Cli) -> Result<()> {
    println!("{}", machine()?);
    let _precedence = Precedence::take();
    for entries in &cli.entries {
        let size = Size {
            entries: *entries,
            workloads: cli.workloads,
        };
        let began = Instant::now();
        let mut crowd = Crowd::start(&size, cli.agent.clone())?;
        println!(
            "{entries} ServiceEntries, {} pods: ready with all pods known after {:.2} s (objects created, agent started)",
            cli.workloads,
            began.elapsed().as_secs_f64()
        );
        let before = crowd.lab.agent()?.cpu()?;
        let edits = crowd.edits(cli.edits)?;
        let cpu = crowd.lab.agent()?.cpu()?.saturating_sub(before);
        let each = cpu.as_secs_f64() * 1e3 / float(edits.len() as u64);
        show("change of a ServiceEntry to its effect", &edits);
        println!("  {each:.1} ms of the agent's processor time for each change");
        let burst = crowd.burst(cli.burst)?;
        show("identity to policy, pods back to back", &burst);
        let pid = crowd.lab.agent()?.pid();
        let resident = crowd.lab.agent()?.resident()?;
        println!(
            "  resident {:.1} MB, of it allocated {:.1} MB",
            float(resident) / 1e6,
            float(anonymous_of(pid)?) / 1e6
        );
        if *entries <= BOUNDED {
            let slow = percentile(&edits, 99);
            ensure!(slow < IN_FORCE, "99 % of the changes within {slow:?}");
            ensure!(resident < MEMORY, "{resident} bytes are resident");
        }
    }
    println!("{}", machine()?);
    Ok(())
}

fn show(what: &str, sorted: &[Duration]) {
    let ms = |percent| percentile(sorted, percent).as_secs_f64() * 1e3;
    println!(
        "  {what}: {} times, p50 {:.1}, p90 {:.1}, p99 {:.1}, longest {:.1} ms",
        sorted.len(),
        ms(50),
        ms(90),
        ms(99),
        ms(100)
    );
}
