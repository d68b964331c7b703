//! `egress-agent boot-unit`: copies this program and the unit that closes the gate before the kubelet to a node, and
//! enables the unit. For a container that has the node's folders mounted: it starts nothing, and systemd reads the
//! unit at the next boot.
//!
//! Owns when that is done; `node` knows the files, and `program` how one is replaced.

mod node;
mod program;

use super::args::AdminArgs;
use super::quiet;
use crate::operate::client;
use clap::Subcommand;
use node::Paths;
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// As long as an agent may need to get a gate that it can close.
const FOREVER: Duration = Duration::from_hours(8760);

/// Arguments of `boot-unit`.
#[derive(Debug, clap::Args)]
pub struct BootUnitArgs {
    #[command(subcommand)]
    act: Act,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Install the program and the unit, and enable the unit. Files that are the same stay untouched
    Install(Arguments),
    /// Remove what `install` made, also if it had other flags
    Remove(Arguments),
}

#[derive(Debug, clap::Args)]
struct Arguments {
    #[command(flatten)]
    paths: Paths,
    /// For a container beside the agent: wait until the agent has proven the gate closed on this node, and stay
    /// afterwards. A node where that fails must not get a unit without which its kubelet does not start
    #[arg(long)]
    stay: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The verb.
pub fn run(args: &BootUnitArgs) -> anyhow::Result<()> {
    let (Act::Install(arguments) | Act::Remove(arguments)) = &args.act;
    if arguments.stay {
        client::wait(&arguments.admin.clone().socket()?, FOREVER, true)?;
    }
    let said = match &args.act {
        Act::Install(to) => node::install(&to.paths, Path::new("/proc/self/exe"))?,
        Act::Remove(from) => node::remove(&from.paths)?,
    };
    writeln!(quiet::stdout(), "{said}")?;
    if !arguments.stay {
        return Ok(());
    }
    loop {
        thread::park();
    }
}
