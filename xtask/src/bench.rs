//! The verb that measures: builds what is measured and runs it as root.
//!
//! Owns which benches there are. What they measure is in `tests/src/bin/bench_*.rs`.

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::{privilege, provision, tasks};

/// A bench.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Bench {
    /// Cost of the hooks against none, and against nft sets.
    Kernel,
}

/// Runs a bench with arguments of its own.
pub fn run(bench: Bench, arguments: &[String]) -> Result<()> {
    let root = privilege::find().context("a bench loads BPF programs: it needs root, or sudo")?;
    let program = match bench {
        Bench::Kernel => {
            if !arguments.iter().any(|argument| argument == "--no-nft") {
                provision::programs(&[("nft", "nftables")])?;
            }
            "bench_kernel"
        }
    };
    tasks::build()?;
    let program = tasks::target().join("debug").join(program);
    let mut command = root.command(&program.to_string_lossy());
    command.args(arguments);
    tasks::show(&mut command)
}
