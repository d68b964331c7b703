//! `egress-agent wait`: returns when a running agent is ready, or when its gate is closed.

use super::args::AdminArgs;
use crate::config::Span;
use crate::operate::client;

/// Arguments of `wait`.
#[derive(Debug, clap::Args)]
pub struct WaitArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    timeout: Span,
    /// Wait only until the gate is closed. An agent is not ready while a root has no workload
    #[arg(long)]
    closed: bool,
}

/// The verb.
pub fn run(args: WaitArgs) -> anyhow::Result<()> {
    client::wait(&args.admin.socket()?, args.timeout.0, args.closed)
}
