//! The probe of the escape suite, the suite itself as a program, and its page.
//!
//! Owns the command line. As `try` it runs inside the gate and ends with one line that says how
//! far it got.

use anyhow::{Context as _, Result};
use clap::Parser;
use egress_tests::escape::{Aim, page, suite, table};
use egress_tests::wait::end_waits_on_signals;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

/// Ways past the gate.
#[derive(Parser)]
enum Cli {
    /// Try one path; the suite runs this behind the gate.
    Try {
        /// The path's name.
        name: String,
        /// The destination to reach.
        to: SocketAddr,
        /// A listed destination.
        listed: SocketAddr,
        /// A destination that goes to the proxy.
        proxied: SocketAddr,
        /// This node's address.
        own: IpAddr,
        /// The proxy's port.
        proxy_port: u16,
    },
    /// Try every path and print the matrix. The exit code is 0 only if all results agree with the page.
    Suite {
        /// Only paths whose name contains this.
        #[arg(default_value = "")]
        filter: String,
    },
    /// Print the page of the documentation.
    Page,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("escape: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    match cli {
        Cli::Try {
            name,
            to,
            listed,
            proxied,
            own,
            proxy_port,
        } => {
            let probe = table::probe(&name).with_context(|| format!("no path {name}"))?;
            let result = probe(&Aim {
                to,
                listed,
                proxied,
                own,
                proxy_port,
            });
            println!("{}", suite::result_line(&result));
        }
        Cli::Suite { filter } => {
            end_waits_on_signals();
            let cells = suite::run(&filter, &mut |cell| println!("{cell}"))?;
            let agreed = cells.iter().filter(|c| c.agreed).count();
            println!("\n{agreed} of {} as the page says", cells.len());
            if agreed != cells.len() {
                return Ok(ExitCode::FAILURE);
            }
        }
        Cli::Page => print!("{}", page::markdown()),
    }
    Ok(ExitCode::SUCCESS)
}
