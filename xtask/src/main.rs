//! `cargo xtask`: the developer's only entry point.
//!
//! Calls the function of each verb.

mod bench;
mod circles;
mod cli;
mod clients;
mod deny;
mod ebpf;
mod lint;
mod manifests;
mod privilege;
mod progress;
mod promtool;
mod provision;
mod release;
mod tasks;
mod tidy;
mod vm;
mod workspace;

use clap::Parser as _;
use cli::{Cli, Task};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().task {
        Task::Setup => tasks::setup(),
        Task::Build => tasks::build_all(),
        Task::Release { target } => release::run(target.as_deref()),
        Task::Run { keep, agent } => tasks::run(keep, &agent),
        Task::Test { filter } => tasks::test(filter.as_deref()),
        Task::Bench { bench, arguments } => bench::run(bench, &arguments),
        Task::Vm { kernel, filter } => vm::run(kernel.as_deref(), &filter),
        Task::Docs { check } => tasks::docs(check),
        Task::Manifests { check: false } => manifests::write(),
        Task::Manifests { check: true } => manifests::check(),
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
