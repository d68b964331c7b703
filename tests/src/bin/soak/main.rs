//! The origins and the clients of the soak, which `egress_tests::soak` arranges.
//!
//! Owns nothing but the choice between the two.

mod asked;
mod client;
mod origin;
mod versions;

use anyhow::Result;
use clap::Parser;
use std::net::SocketAddr;

#[derive(Parser)]
enum Cli {
    /// Answers HTTP/1.1 and HTTP/2 with its name and what it saw, until standard input ends
    Origin { name: String, at: SocketAddr },
    /// Makes requests of all kinds and judges each answer by the versions of the rules that may have been in force;
    /// standard input says which those are
    Client {
        #[arg(long)]
        requests: u64,
        to: SocketAddr,
    },
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    match Cli::parse() {
        Cli::Origin { name, at } => runtime.block_on(origin::serve(name, at)),
        Cli::Client { requests, to } => runtime.block_on(client::run(requests, to)),
    }
}
