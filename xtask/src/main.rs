//! `cargo xtask`: the developer's only entry point.
//!
//! Owns the verbs and nothing of what they do.

mod bench;
mod ebpf;
mod lint;
mod manifests;
mod privilege;
mod progress;
mod provision;
mod tasks;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Build, run, test and lint the egress gate"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what the build and the tests need.
    Setup,
    /// Build the BPF programs, the agent and the lab.
    Build,
    /// Walk through the lab (no arguments), or run the agent with the arguments given.
    Run {
        /// Leave the lab up and print the lines to paste in another terminal.
        #[arg(long)]
        keep: bool,
        /// Arguments for `egress-agent run`, after `--`.
        #[arg(last = true)]
        agent: Vec<String>,
    },
    /// Run the unit tests and, as root, the suites on the real kernel.
    Test {
        /// Only tests whose name contains this.
        filter: Option<String>,
    },
    /// Measure; arguments of the bench after `--`.
    Bench {
        /// Which.
        bench: bench::Bench,
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// Check format, clippy, docs and the house rules.
    Lint,
    /// Check the house rules only.
    Tidy,
}

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup => tasks::setup(),
        Task::Build => tasks::build(),
        Task::Run { keep, agent } => tasks::run(keep, &agent),
        Task::Test { filter } => tasks::test(filter.as_deref()),
        Task::Bench { bench, arguments } => bench::run(bench, &arguments),
        Task::Lint => lint::run(),
        Task::Tidy => lint::tidy(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
