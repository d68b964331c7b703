//! `egress-agent detach`: opens the gate.

use super::args::file_settings;
use super::quiet;
use crate::config::DEFAULT_BPF_DIR;
use crate::{kernel, privilege};
use std::path::PathBuf;

/// Arguments of `detach`.
#[derive(Debug, clap::Args)]
pub struct DetachArgs {
    /// Config file of the agent, for `bpfDir`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the agent pinned its programs
    #[arg(long, value_name = "PATH")]
    bpf_dir: Option<PathBuf>,
}

/// The verb.
pub fn run(args: DetachArgs) -> anyhow::Result<()> {
    let file = file_settings(args.config)?;
    let bpf_dir = args
        .bpf_dir
        .or(file.bpf_dir)
        .unwrap_or_else(|| DEFAULT_BPF_DIR.into());
    privilege::require()?;
    let was_closed = kernel::detach(&bpf_dir)?;
    if !was_closed {
        let shown = bpf_dir.display();
        quiet::error(format_args!("egress-agent: no gate is pinned at {shown}"));
    }
    Ok(())
}
