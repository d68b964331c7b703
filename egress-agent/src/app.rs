//! Placeholder for the composition root, so that this branch compiles: replaced at the merge.

use crate::config::Config;
use std::path::Path;

/// Runs the agent until it is told to stop.
pub fn run(_config: Config) -> anyhow::Result<()> {
    anyhow::bail!("this branch has no composition root")
}

/// Opens the gate.
pub fn detach(_bpf_dir: &Path) -> anyhow::Result<()> {
    anyhow::bail!("this branch has no composition root")
}

/// Whether the gate is attached to this enforced root.
pub fn is_attached(_bpf_dir: &Path, _root: &Path) -> anyhow::Result<()> {
    anyhow::bail!("this branch has no composition root")
}
