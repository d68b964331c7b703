//! Processor time of the agent for traffic through the proxy, alone or with `--peers` beside nginx, haproxy and Envoy.
//!
//! Owns the choice. `cargo xtask bench proxy` runs it. With `--against` another agent is measured in the same run, in
//! alternating rounds, because figures are comparable only on the same machine and load.

mod alone;
mod peers;

use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask bench proxy --")]
struct Cli {
    /// Measurements of each kind; the median is printed
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Requests or new connections of each measurement
    #[arg(long, default_value_t = 20_000)]
    requests: u32,
    /// Megabytes of each measurement
    #[arg(long, default_value_t = 200)]
    megabytes: u32,
    /// Another agent to measure in turn with this one
    #[arg(long, value_name = "AGENT")]
    against: Option<PathBuf>,
    /// Compare with nginx, haproxy and Envoy
    #[arg(long)]
    peers: bool,
    /// Only these parts of the comparison [default: all]
    #[arg(long, value_delimiter = ',', value_parser = peers::part, requires = "peers")]
    only: Vec<&'static str>,
    /// Put the tables of the comparison into this page, each in place of the part's last one
    #[arg(long, value_name = "FILE", requires = "peers")]
    write: Option<PathBuf>,
    /// Gigabytes of each measurement with `--peers`
    #[arg(long, default_value_t = 2)]
    gigabytes: u32,
    /// Idle connections with `--peers`
    #[arg(long, default_value_t = 8000)]
    idle: u64,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    egress_tests::bench::end(if cli.peers {
        peers::bench(&cli)
    } else {
        alone::bench(&cli)
    })
}
