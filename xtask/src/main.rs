//! `cargo xtask`: the developer's only entry point.
//!
//! Owns the verbs and nothing of what they do.

mod ebpf;
mod lint;
mod privilege;
mod progress;
mod provision;
mod tasks;
mod tidy;
mod vm;

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
    /// Boot other kernels in QEMU, load the gate there and run the escape suite.
    Vm {
        /// Only this kernel: 6.1, 6.12 or 5.10.
        kernel: Option<String>,
        /// Only paths whose name contains this.
        #[arg(long, default_value = "")]
        filter: String,
    },
    /// Write the generated pages of the documentation.
    Docs {
        /// Only say whether they are as they would be written.
        #[arg(long)]
        check: bool,
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
        Task::Vm { kernel, filter } => vm::run(kernel.as_deref(), &filter),
        Task::Docs { check } => tasks::docs(check),
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
