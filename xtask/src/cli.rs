//! The verbs and their arguments. Does nothing.

use crate::bench::Bench;
use clap::{Parser, Subcommand};

/// The command line.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    about = "Build, run, test and lint the egress gate"
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub task: Task,
}

/// A verb.
#[derive(Subcommand)]
pub enum Task {
    /// Find or install what the build and the tests need.
    Setup,
    /// Build the BPF programs, the agent and the lab.
    Build,
    /// Build the agent for a node, in `target/dist`: without symbols, these in a file beside it.
    Release,
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
        /// Only the suites whose name contains this, or, if there is none, only the tests whose
        /// name contains it.
        filter: Option<String>,
    },
    /// Measure; arguments of the bench after `--`.
    Bench {
        /// Which.
        bench: Bench,
        #[arg(last = true)]
        arguments: Vec<String>,
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
    /// Check format, clippy, docs, the house rules, manifests and dependencies.
    Lint,
    /// Check the house rules only.
    Tidy,
}
