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
    /// Build the agent for a node in `target/dist`, with its symbols in a separate file.
    Release {
        /// Build for this target triple with Debian's cross compiler: x86_64-unknown-linux-gnu or
        /// aarch64-unknown-linux-gnu.
        #[arg(long)]
        target: Option<String>,
    },
    /// Run the lab (no arguments), or the agent with the given arguments.
    Run {
        /// Keep the lab running, and print the lines to paste in another terminal.
        #[arg(long)]
        keep: bool,
        /// Arguments for `egress-agent run`, after `--`.
        #[arg(last = true)]
        agent: Vec<String>,
    },
    /// Run the unit tests and, as root, the suites on the real kernel.
    Test {
        /// Only suites whose name contains this, or, if there are none, only tests whose name contains it.
        filter: Option<String>,
    },
    /// Measure; arguments of the bench after `--`.
    Bench {
        /// The bench.
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
        /// Only check whether the pages are up to date.
        #[arg(long)]
        check: bool,
    },
    /// Render the Helm chart to `deploy/kubernetes`.
    Manifests {
        /// Only check the rendered files, the chart with its documented values, and the Istio objects in examples and
        /// documentation.
        #[arg(long)]
        check: bool,
    },
    /// Check format, clippy, docs, the house rules, manifests and dependencies.
    Lint,
    /// Check the house rules only.
    Tidy,
}
