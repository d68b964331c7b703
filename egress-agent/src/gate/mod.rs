//! Closes the gate before anything else can fail: takes the lock of the pins' folder, loads the
//! programs, adopts or creates the maps, denies everything where there are no rules, and attaches the
//! programs. `run` continues from here; `close` ends here.
//!
//! Knows neither rules nor the agent's own cgroup.

pub mod lock;
pub mod own;
pub mod placement;
pub mod pods;
pub mod roots;
pub mod rootwatch;
pub mod started;

use crate::failure::Failure;
use crate::kernel::{self, Kernel, Pins};
use lock::{Lock, Patience};
use roots::Roots;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long to wait for a stopping agent to release the gate's lock.
pub const LEAVING: Patience = Patience::UpTo(Duration::from_secs(3));

/// A gate that is closed around every existing root.
pub struct Gate {
    /// Programs and pins.
    pub kernel: Kernel,
    /// The enforced roots. The caller handles [`Roots::wrong`].
    pub roots: Roots,
    /// Held while this process may change the gate.
    pub lock: Lock,
}

/// How long to wait for another agent that holds the gate; a standby waits until it leaves.
pub fn patience(standby: bool) -> Patience {
    if standby {
        Patience::UntilItLeaves
    } else {
        LEAVING
    }
}

/// Closes the gate and returns what the caller needs to go on.
///
/// Waits for another agent as `patience` says, and calls `locked` with the enforced roots once this
/// process has the gate's lock.
///
/// If `audits` is set, a gate without rules records what it would deny and denies nothing, as it will
/// with rules. So a user who tries the gate on a running machine is not cut off when it starts.
///
/// # Errors
/// Another agent holds the gate, a system call fails, or every named root is wrong. If only some roots
/// are wrong, the others are closed and [`Roots::wrong`] has the error.
pub fn close(
    bpf_dir: &Path,
    cgroups: &[PathBuf],
    max_networks: u32,
    audits: bool,
    patience: Patience,
    locked: impl FnOnce(&Lock, &[PathBuf]),
) -> anyhow::Result<Gate> {
    let mut roots = Roots::look(cgroups);
    if roots.paths.is_empty()
        && let Some(wrong) = roots.wrong.take()
    {
        // There is nothing to close, so change nothing.
        return Err(wrong.into());
    }
    let pins = Pins::mount(bpf_dir)?;
    pins.refuse_other_abi()?;
    let lock = Lock::take(bpf_dir, patience)?;
    if matches!(patience, Patience::UntilItLeaves) {
        roots = Roots::look(cgroups);
    }
    locked(&lock, &roots.paths);
    for root in &roots.paths {
        kernel::refuse_rival(&pins, root)?;
    }
    let mut kernel = Kernel::load(pins, max_networks)?;
    kernel.deny_without_rules(audits)?;
    kernel::attach_roots(&mut kernel, &roots.paths)?;
    Ok(Gate {
        kernel,
        roots,
        lock,
    })
}

/// Paths for a log line.
pub fn shown(paths: &[PathBuf]) -> String {
    let paths = paths.iter().map(|p| p.display().to_string());
    paths.collect::<Vec<_>>().join(", ")
}

/// Fails unless the gate is closed around this enforced root.
pub fn is_attached(bpf_dir: &Path, root: &Path) -> anyhow::Result<()> {
    if kernel::is_attached(bpf_dir, root)? {
        return Ok(());
    }
    Err(Failure::usage(format_args!(
        "no gate at {} (pins at {}): start `egress-agent run` with --cgroup {} first",
        root.display(),
        bpf_dir.display(),
        root.display()
    ))
    .into())
}
